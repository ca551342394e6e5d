"""Replay: train a stored trial again and check that the results are bitwise identical."""
