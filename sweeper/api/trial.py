"""One trial of a study, with all that is kept of it."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from sweeper.store.records import Result


@dataclass(frozen=True, eq=False)
class Trial:
    """One trial: its row of the frame, its evaluations, and what it printed or died of."""

    row: pd.Series
    epochs: pd.DataFrame
    result: Result

    @property
    def number(self) -> int:
        """Its number in the study."""
        return int(self.row["number"])

    @property
    def log(self) -> str:
        """What it did, line by line: its epochs, its output, and why it failed."""
        row = self.row
        rate = "" if pd.isna(row["rate"]) else f", rate {row['rate']:.4g}"
        lines = [
            f"trial {row['number']}: {row['state']}, "
            f"epsilon {row['epsilon']:.4g}, {row['schedule']}{rate}"
        ]
        lines += [
            f"epoch {e.epoch:3d}  epsilon {e.epsilon:.4f}{_mean_used(e)}  nll {e.nll:.4f}  "
            f"accuracy {e.accuracy:.4f}  ece {e.ece:.4f}"
            for e in self.epochs.itertuples()
        ]
        for title, text in (
            ("notes", self.result.notes),
            ("printed", self.result.log),
            ("failure", self.result.failure),
        ):
            if text.strip():
                lines += ["", f"{title}:", text.rstrip()]
        return "\n".join(lines)


def _mean_used(epoch: Any) -> str:
    """Return the mean epsilon of an epoch, where the loop says what it was."""
    return "" if pd.isna(epoch.mean_epsilon) else f" (mean {epoch.mean_epsilon:.4f})"
