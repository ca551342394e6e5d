"""Trainer processes: starting, monitoring and ending them, independent of what they train."""
