"""The step: teaching and update in one call, block by block, during the forward pass where the signal is early."""
