"""Replay: train a stored trial again and compare it to the last bit."""
