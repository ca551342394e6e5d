"""The shared SQL database, which holds Optuna's tables and sweeper's own."""
