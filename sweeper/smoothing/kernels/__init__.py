"""The loss of hard labels, written by hand: eager mode on the CPU, and Triton on a GPU."""
