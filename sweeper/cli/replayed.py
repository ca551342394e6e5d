"""What `sweeper replay` says: an epoch while it trains, and what came out."""

from collections.abc import Iterator

from rich.console import Console

from sweeper.replaying.comparison import Difference
from sweeper.replaying.replay import OnReplayed, Replay
from sweeper.store.records import EpochRow
from sweeper.study.space import acting, hparams_of


def on_epoch(console: Console) -> OnReplayed:
    """Return what to call with each epoch: a line of it in a terminal, nothing elsewhere."""

    def say(row: EpochRow, stored: int) -> None:
        if console.is_terminal:
            console.print(f"epoch {row.epoch} of {stored}: nll {row.nll:.4f}")

    return say


def lines(replay: Replay) -> Iterator[str]:
    """Yield what to print about a replay."""
    if replay.asked != replay.trial:
        yield f"trial {replay.asked} was given the result of trial {replay.trial}: that is replayed"
    yield _configuration(replay)
    yield from (str(line) for line in replay.environment)
    if replay.same:
        yield _same(replay)
        return
    yield from _unlike(replay)
    yield f"likely reason: {replay.reason}"


def _configuration(replay: Replay) -> str:
    smoothing = acting(replay.point)
    parts = [f"epsilon {smoothing.epsilon:.4g}", smoothing.schedule]
    if smoothing.rate is not None:
        parts.append(f"rate {smoothing.rate:.4g}")
    parts += [f"{name} {_short(value)}" for name, value in hparams_of(replay.point).items()]
    return f"trial {replay.trial}: {replay.state}, {', '.join(parts)}"


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _same(replay: Replay) -> str:
    numbers = (
        f"{_count(replay.epochs, 'epoch')} and {_count(replay.scores, 'score')} "
        "are the same to the last bit"
    )
    if not replay.failed_there.cause:
        return numbers
    again = f"it fails the same way: {replay.failed_there}"
    return f"{numbers}; {again}" if replay.epochs else again


def _unlike(replay: Replay) -> Iterator[str]:
    if not replay.failed_there.same_as(replay.failed_here):
        yield f"there: {replay.failed_there}; here: {replay.failed_here}"
    epochs = [line for line in replay.differences if line.epoch is not None]
    scores = [line for line in replay.differences if line.epoch is None]
    yield (
        f"{len({line.epoch for line in epochs})} of {_count(replay.epochs, 'epoch')} and "
        f"{len(scores)} of {_count(replay.scores, 'score')} differ"
    )
    yield from (str(line) for line in _firsts(epochs, scores))


def _firsts(*found: list[Difference]) -> Iterator[Difference]:
    for differences in found:
        yield from differences[:1]


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
