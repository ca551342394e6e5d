"""The scores of a model on held-out data; this module does not import torch."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Scores:
    """The unsmoothed scores of one evaluation, against hard labels.

    - `nll`: in nats.
    - `accuracy`, `accuracy_top5`: in [0, 1]; the latter is None with fewer than 10 classes.
    - `brier`: in [0, 2]; the squared error summed over classes.
    - `ece`: in [0, 1]; expected calibration error with 15 bins of equal width.
    - `temperature`: fitted on all samples.
    - `nll_calibrated`, `ece_calibrated`: NLL and ECE after temperature scaling; each half of the
      samples is scaled with the temperature fitted on the other half.
    - `ece_adaptive`: in [0, 1]; ECE with 15 bins of equal count.
    - `ece_classwise`: in [0, 1]; the mean over classes of the ECE of p_k against 1[y = k].
    - `ece_debiased`: in [0, 1]; the root of the debiased squared calibration error.
    - `overconfidence`, `underconfidence`: in [0, 1]; the parts of `ece` from bins whose confidence
      is above and below their accuracy.
    - `aurc`: in [0, 1]; the area under the risk-coverage curve.
    - `eaurc`: in [0, 1]; `aurc` minus the lowest value that is possible at this accuracy.
    - `entropy`: the mean entropy of the predictions, in nats.

    Scores that were not computed are None. All scores are NaN if a logit is NaN or +inf.
    """

    nll: float
    accuracy: float
    brier: float
    ece: float
    accuracy_top5: float | None = None
    temperature: float | None = None
    nll_calibrated: float | None = None
    ece_adaptive: float | None = None
    ece_classwise: float | None = None
    ece_debiased: float | None = None
    overconfidence: float | None = None
    underconfidence: float | None = None
    aurc: float | None = None
    eaurc: float | None = None
    entropy: float | None = None
    ece_calibrated: float | None = None

    def to_dict(self) -> dict[str, float | None]:
        return asdict(self)
