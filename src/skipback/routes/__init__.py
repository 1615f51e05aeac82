"""Routes that are not the direct one: layerwise, perturbed, local losses, and anchors of plain backprop."""
