"""A configuration that is retrained on fresh seeds."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

# "baseline" has the pick's other hyperparameters, "tuned baseline" those that are best at ε = 0.
Role = Literal["baseline", "tuned baseline", "default", "pick", "runner-up"]
BASELINES: Final = ("baseline", "tuned baseline")


@dataclass(frozen=True)
class Candidate:
    """A configuration to confirm.

    `trial` is the number of its trial in the search and `searched` that trial's validation value
    of the study's metric; both are None if the search did not try it. `smoothed` is the Gaussian
    process estimate of the value, None for configurations that were not selected by it.
    """

    role: Role
    point: Mapping[str, Any]
    trial: int | None = None
    searched: float | None = None
    smoothed: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
