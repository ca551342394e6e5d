"""One trial of a study with all its stored data."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from sweeper import formatting as fmt
from sweeper.store.outputs import Output
from sweeper.store.records import Result


@dataclass(frozen=True, eq=False)
class Trial:
    """One trial: its row of the study's frame, its evaluations, its output and its failure."""

    row: pd.Series
    epochs: pd.DataFrame
    result: Result
    outputs: Sequence[Output] = ()

    @property
    def number(self) -> int:
        return int(self.row["number"])

    @property
    def printed(self) -> str:
        """The output of all attempts; of a running trial up to its last report."""
        if len(self.outputs) < 2:
            return "".join(output.text for output in self.outputs)
        return "\n".join(
            f"attempt {output.claim}:\n{output.text.rstrip()}" for output in self.outputs
        )

    @property
    def log(self) -> str:
        """A text with the trial's epochs, notes, output and failure."""
        row = self.row
        lines = [f"trial {row['number']}: {row['state']}, {fmt.trial_smoothing(row)}"]
        lines += [_epoch(epoch) for epoch in self.epochs.to_dict("records")]
        for title, text in (
            ("notes", self.result.notes),
            ("output", self.printed),
            ("failure", self.result.failure),
        ):
            if text.strip():
                lines += ["", f"{title}:", text.rstrip()]
        return "\n".join(lines)


def _epoch(epoch: Mapping[Hashable, Any]) -> str:
    mean = epoch["mean_epsilon"]  # missing if it is not known
    mean_text = "" if pd.isna(mean) else f" (mean {fmt.epsilon(mean)})"
    return (
        f"epoch {epoch['epoch']:3d}  ε {fmt.epsilon(epoch['epsilon'])}{mean_text}  "
        f"NLL {fmt.nll(epoch['nll'])}  accuracy {fmt.percent(epoch['accuracy'])}  "
        f"ECE {fmt.percent(epoch['ece'])}"
    )
