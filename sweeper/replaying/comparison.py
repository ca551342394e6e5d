"""What one trial gave twice, there and here, side by side to the last bit."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Value = float | str | None
# By name, as a row of the database has them.
Numbers = Mapping[str, float | None]


@dataclass(frozen=True)
class Given:
    """What a trial gave: the numbers of each epoch, and of the trial as a whole."""

    epochs: Mapping[int, Numbers] = field(default_factory=dict)
    scores: Numbers = field(default_factory=dict)


@dataclass(frozen=True)
class Difference:
    """Something that is not the same there and here; `epoch` None: of the trial as a whole."""

    name: str
    there: Value
    here: Value
    epoch: int | None = None

    def __str__(self) -> str:
        place = "" if self.epoch is None or self.name == "epoch" else f"epoch {self.epoch}, "
        return f"{place}{self.name} {_text(self.there)} there, {_text(self.here)} here{self._by()}"

    def _by(self) -> str:
        if not (isinstance(self.there, float) and isinstance(self.here, float)):
            return ""
        more = self.here - self.there
        return f" ({abs(more):.2g} {'more' if more > 0 else 'less'})" if math.isfinite(more) else ""

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data; a number that is not finite as None, as it is stored."""
        return {
            "epoch": self.epoch,
            "name": self.name,
            "there": _plain(self.there),
            "here": _plain(self.here),
        }


def compare(there: Given, here: Given) -> list[Difference]:
    """Return the numbers that are not the same: epoch by epoch, then those of the whole.

    Every epoch of either counts, and every score that is there.
    """
    epochs = sorted(there.epochs.keys() | here.epochs.keys())
    found = [line for number in epochs for line in _epoch(number, there, here)]
    return [*found, *_numbers(there.scores, here.scores)]


def unlike(there: Mapping[str, str], here: Mapping[str, str]) -> list[Difference]:
    """Return what differs between the environments of two trainings."""
    return [
        Difference(name, there.get(name), here.get(name))
        for name in {**there, **here}
        if there.get(name) != here.get(name)
    ]


def _epoch(number: int, there: Given, here: Given) -> Iterator[Difference]:
    ours, theirs = here.epochs.get(number), there.epochs.get(number)
    if theirs is None:
        yield Difference("epoch", None, number, number)
    elif ours is None:
        yield Difference("epoch", number, None, number)
    else:
        yield from _numbers(theirs, ours, number)


def _numbers(there: Numbers, here: Numbers, epoch: int | None = None) -> Iterator[Difference]:
    for name, value in there.items():
        if not _same(value, here.get(name)):
            yield Difference(name, value, here.get(name), epoch)


def _same(there: float | None, here: float | None) -> bool:
    # NaN and infinities are stored as none: no SQL database has them in JSON.
    if there is None or here is None:
        return there is None and (here is None or not math.isfinite(here))
    return there == here


def _text(value: Value) -> str:
    return "none" if value is None else str(value)


def _plain(value: Value) -> Value:
    return None if isinstance(value, float) and not math.isfinite(value) else value
