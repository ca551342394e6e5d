"""Ways to start workers: one command line, N times, with the database in the environment."""
