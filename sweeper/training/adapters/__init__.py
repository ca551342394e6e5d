"""Adapters that connect a training run to the trainer of another framework."""
