"""Training functions on several ranks of one machine, under torch.distributed."""
