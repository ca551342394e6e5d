"""Rows for the database."""

from sweeper.store.records import EpochRow

EPOCH = EpochRow(1, 0.5, 0.1, 1.0, 0.3, 0.9, 0.1, 0.02, 0.05)
