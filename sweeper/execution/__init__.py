"""Running studies: the worker, the launcher, and the executors that start workers."""
