"""Confirmation: retrain the pick and ε = 0 on fresh seeds, and test the difference."""
