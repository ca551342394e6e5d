"""Scores of logits against hard labels, computed with torch and numpy.

Names are imported on first use, so that reading stored scores does not import torch.
"""

from typing import TYPE_CHECKING

from sweeper.lazy import lazy

if TYPE_CHECKING:
    from sweeper.scoring.calibration import (
        Reliability,
        expected_calibration_error,
        reliability,
        weighted_ece,
    )
    from sweeper.scoring.evaluate import score
    from sweeper.scoring.example_values import Examples, examples
    from sweeper.scoring.scores import Scores
    from sweeper.scoring.selective import weighted_aurc
    from sweeper.scoring.temperature import fit_temperature

_HOMES = {
    "Examples": "sweeper.scoring.example_values",
    "Reliability": "sweeper.scoring.calibration",
    "Scores": "sweeper.scoring.scores",
    "weighted_aurc": "sweeper.scoring.selective",
    "weighted_ece": "sweeper.scoring.calibration",
    "examples": "sweeper.scoring.example_values",
    "expected_calibration_error": "sweeper.scoring.calibration",
    "fit_temperature": "sweeper.scoring.temperature",
    "reliability": "sweeper.scoring.calibration",
    "score": "sweeper.scoring.evaluate",
}

__all__ = [
    "Examples",
    "Reliability",
    "Scores",
    "examples",
    "expected_calibration_error",
    "fit_temperature",
    "reliability",
    "score",
    "weighted_aurc",
    "weighted_ece",
]

__getattr__ = lazy(__name__, _HOMES)
