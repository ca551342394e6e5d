"""Scores of logits against hard labels: torch only."""

from sweeper.scoring.calibration import expected_calibration_error
from sweeper.scoring.scores import Scores, score
from sweeper.scoring.temperature import fit_temperature

__all__ = ["Scores", "expected_calibration_error", "fit_temperature", "score"]
