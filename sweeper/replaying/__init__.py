"""Replay: train a stored trial again and compare the results bit by bit."""
