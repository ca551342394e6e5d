"""The table of the trials of an earlier study that inform the sampler."""

from typing import Any, Final, NamedTuple

import pandas as pd

from sweeper import formatting as fmt

MAX_ROWS: Final = 200


class EarlierTable(NamedTuple):
    """The headings and rows of the table, best first; `total` counts all earlier trials."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    total: int


def earlier_table(earlier: pd.DataFrame) -> EarlierTable:
    """Return the table of a frame of `earlier_frame`, with at most `MAX_ROWS` rows."""
    hyperparameters = [name for name in earlier.columns if str(name).startswith("hp_")]
    headings = ("study", "trial", "state", "ε", "schedule", "rate")
    names = (name.removeprefix("hp_") for name in hyperparameters)
    lowest = earlier if earlier.empty else earlier.sort_values("value", kind="stable")
    rows = tuple(
        (
            str(row["study"]),
            str(row["trial"]),
            str(row["state"]),
            fmt.epsilon(row["epsilon"]),
            str(row["schedule"]),
            fmt.two_figures(row["rate"]),
            *(_setting(row[name]) for name in hyperparameters),
            fmt.nll(row["value"]),
        )
        for row in lowest.head(MAX_ROWS).to_dict("records")
    )
    return EarlierTable((*headings, *names, "value"), rows, len(earlier))


def _setting(value: Any) -> str:
    return fmt.NOTHING if pd.isna(value) else fmt.setting(value)
