"""The output of `sweeper replay`: one line per epoch, then the result of the comparison."""

from collections.abc import Iterator

from rich.console import Console

from sweeper import formatting as fmt
from sweeper.replaying.replay import OnEpoch, Replay
from sweeper.store.records import EpochRow
from sweeper.study.space import effective_smoothing, hparams_of


def on_epoch(console: Console) -> OnEpoch:
    """Return a callback that prints each epoch if the console is a terminal."""

    def print_epoch(row: EpochRow, stored: int) -> None:
        if console.is_terminal:
            console.print(f"epoch {row.epoch} of {stored}: nll {fmt.nll(row.nll)}")

    return print_epoch


def lines(replay: Replay) -> Iterator[str]:
    """Yield the lines to print about a replay."""
    if replay.requested != replay.trial:
        original = f"trial {replay.trial}"
        yield f"trial {replay.requested} is a copy of {original}; replayed {original} instead"
    yield _configuration(replay)
    yield from (str(line) for line in replay.environment)
    if replay.same:
        yield _same(replay)
        return
    yield from _differences(replay)
    yield f"likely reason: {replay.reason}"


def _configuration(replay: Replay) -> str:
    parts = [fmt.smoothing(*effective_smoothing(replay.point))]
    parts += [f"{name} {fmt.setting(value)}" for name, value in hparams_of(replay.point).items()]
    return f"trial {replay.trial}: {replay.state}, {', '.join(parts)}"


def _same(replay: Replay) -> str:
    identical = (
        f"{_count(replay.epochs, 'epoch')} and {_count(replay.scores, 'score')} "
        "are identical, bit for bit"
    )
    if not replay.failed_there.cause:
        return identical
    failure = f"the failure is the same: {replay.failed_there}"
    return f"{identical}; {failure}" if replay.epochs else failure


def _differences(replay: Replay) -> Iterator[str]:
    if not replay.failed_there.same_as(replay.failed_here):
        yield f"stored: {replay.failed_there}; replayed: {replay.failed_here}"
    epochs = [line for line in replay.differences if line.epoch is not None]
    scores = [line for line in replay.differences if line.epoch is None]
    yield (
        f"{len({line.epoch for line in epochs})} of {_count(replay.epochs, 'epoch')} and "
        f"{len(scores)} of {_count(replay.scores, 'score')} differ"
    )
    yield from (str(line) for line in (*epochs[:1], *scores[:1]))


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
