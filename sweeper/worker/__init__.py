"""The worker: claims tickets, trains their trials and stores the results."""
