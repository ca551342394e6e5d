"""Hand-written kernels of the loss for integer labels: eager mode on the CPU, Triton on a GPU."""
