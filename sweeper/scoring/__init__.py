"""Scores of logits against hard labels: torch and numpy only."""

from sweeper.scoring.calibration import (
    Reliability,
    ece_of,
    expected_calibration_error,
    reliability,
)
from sweeper.scoring.examples import Examples, examples
from sweeper.scoring.scores import Scores, score
from sweeper.scoring.selective import aurc_of
from sweeper.scoring.temperature import fit_temperature

__all__ = [
    "Examples",
    "Reliability",
    "Scores",
    "aurc_of",
    "ece_of",
    "examples",
    "expected_calibration_error",
    "fit_temperature",
    "reliability",
    "score",
]
