"""Capture: whole training steps as one CUDA graph, on data in the memory of the device."""
