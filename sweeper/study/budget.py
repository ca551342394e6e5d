"""The table [budget] of a study file."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from sweeper import limits
from sweeper.study.schema_errors import KeyErrors, toml_value
from sweeper.study.section import Section

Seconds = Annotated[float, Field(gt=0, le=limits.SECONDS)]
Hours = Annotated[float, Field(gt=0, le=limits.HOURS)]


def _check_pack(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= limits.TRIALS:
        return value
    if value in ("auto", "off"):
        return value
    raise ValueError(
        f"must be 'auto', 'off' or an integer from 1 to budget.trials, got {toml_value(value)}"
    )


class BudgetSection(Section):
    """Limits of the search."""

    trials: Annotated[
        int, Field(ge=1, le=limits.TRIALS, description="Number of trials, including ε = 0.")
    ] = 64
    baseline: Annotated[
        float,
        Field(
            ge=0,
            le=0.5,
            description="Share of the trials that search the other hyperparameters at ε = 0, if "
            "others are searched. The verdict compares with the best of them.",
        ),
    ] = 0.25
    timeout: Annotated[
        Seconds | None, Field(description="Maximum duration of a launch, in seconds.")
    ] = None
    core_hours: Annotated[
        Hours | None,
        Field(
            description="CPU core hours of all attempts of the search; afterwards no trial starts."
        ),
    ] = None
    gpu_hours: Annotated[
        Hours | None,
        Field(description="GPU hours of all attempts of the search; afterwards no trial starts."),
    ] = None
    trial_timeout: Annotated[
        Seconds | None,
        Field(description="Maximum duration of a trial, in seconds; a longer trial fails."),
    ] = None
    patience: Annotated[
        int | None,
        Field(
            ge=1,
            le=limits.TRIALS,
            description="Stop after this many trials in a row without improvement.",
        ),
    ] = None
    pack: Annotated[
        Literal["auto", "off"] | Annotated[int, Field(ge=1, le=limits.TRIALS)],
        BeforeValidator(_check_pack),
        Field(
            description="Trials that a worker trains in one vectorized step: a number up to "
            "trials, auto (the fastest number) or off (one by one)."
        ),
    ] = "auto"

    @model_validator(mode="after")
    def _pack_within_trials(self) -> "BudgetSection":
        if isinstance(self.pack, int) and self.pack > self.trials:
            raise KeyErrors([("pack", f"must be at most trials = {self.trials}, got {self.pack}")])
        return self
