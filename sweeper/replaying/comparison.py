"""Bitwise comparison of the stored results of a trial with those of its replay."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Value = float | str | None
# Values by column name; None for NULL.
Numbers = Mapping[str, float | None]


@dataclass(frozen=True)
class RunValues:
    """Results of one training run: `epochs` by epoch number, and `scores` of the whole run."""

    epochs: Mapping[int, Numbers] = field(default_factory=dict)
    scores: Numbers = field(default_factory=dict)


@dataclass(frozen=True)
class Difference:
    """A value that differs between the stored trial and its replay.

    `epoch` is None for scores and for the environment. An epoch that only one of them has is a
    difference named "epoch".
    """

    name: str
    stored: Value
    replayed: Value
    epoch: int | None = None

    def __str__(self) -> str:
        place = "" if self.epoch is None or self.name == "epoch" else f"epoch {self.epoch}, "
        values = f"stored {_text(self.stored)}, replayed {_text(self.replayed)}"
        return f"{place}{self.name}: {values}{self._change()}"

    def _change(self) -> str:
        if not (isinstance(self.stored, float) and isinstance(self.replayed, float)):
            return ""
        change = self.replayed - self.stored
        if not math.isfinite(change):
            return ""
        return f" ({abs(change):.2g} {'higher' if change > 0 else 'lower'})"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON; non-finite numbers are None, as in the database."""
        return {
            "epoch": self.epoch,
            "name": self.name,
            "there": _plain(self.stored),
            "here": _plain(self.replayed),
        }


def compare(stored: RunValues, replayed: RunValues) -> list[Difference]:
    """Return the differing values: first by epoch, then the scores of the whole run.

    All epochs of both are compared, but only values that `stored` has.
    """
    epochs = sorted(stored.epochs.keys() | replayed.epochs.keys())
    by_epoch = [difference for number in epochs for difference in _epoch(number, stored, replayed)]
    return [*by_epoch, *_numbers(stored.scores, replayed.scores)]


def environment_differences(
    stored: Mapping[str, str], replayed: Mapping[str, str]
) -> list[Difference]:
    """Return the differences between the environments of two training runs."""
    return [
        Difference(name, stored.get(name), replayed.get(name))
        for name in {**stored, **replayed}
        if stored.get(name) != replayed.get(name)
    ]


def _epoch(number: int, stored: RunValues, replayed: RunValues) -> Iterator[Difference]:
    stored_row, replayed_row = stored.epochs.get(number), replayed.epochs.get(number)
    if stored_row is None:
        yield Difference("epoch", None, number, number)
    elif replayed_row is None:
        yield Difference("epoch", number, None, number)
    else:
        yield from _numbers(stored_row, replayed_row, number)


def _numbers(stored: Numbers, replayed: Numbers, epoch: int | None = None) -> Iterator[Difference]:
    for name, value in stored.items():
        if not _same(value, replayed.get(name)):
            yield Difference(name, value, replayed.get(name), epoch)


def _same(stored: float | None, replayed: float | None) -> bool:
    # NaN and infinities are stored as NULL, because JSON cannot represent them.
    if stored is None or replayed is None:
        return stored is None and (replayed is None or not math.isfinite(replayed))
    return stored == replayed


def _text(value: Value) -> str:
    return "none" if value is None else str(value)


def _plain(value: Value) -> Value:
    return None if isinstance(value, float) and not math.isfinite(value) else value
