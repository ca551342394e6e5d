"""Packs: many runs of a task trained in one vectorized step."""
