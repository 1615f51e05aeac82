"""Capture: whole training steps as one CUDA graph, on data that live on the device."""
