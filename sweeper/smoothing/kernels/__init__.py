"""Hand-written kernels for the loss with hard labels: eager mode on the CPU, Triton on a GPU."""
