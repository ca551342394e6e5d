"""The formulas: targets, the loss, schedules, and one smoothing configuration."""
