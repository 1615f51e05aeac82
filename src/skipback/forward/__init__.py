"""Forward mode: tangents of the ports and the output, for feedback and estimates that look at them."""
