"""The SQL database that all processes share: Optuna's tables and ours, beside each other."""
