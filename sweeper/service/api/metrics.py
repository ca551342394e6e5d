"""Counts for Prometheus, in its text form."""

from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Final

from sweeper.errors import SweeperError
from sweeper.service.study_reader import Library, Snapshot

# The studies that are reported one by one: the newest.
NEWEST: Final = 100
_STATES: Final = ("running", "unfinished", "paused", "stopped", "finished")


def metrics_text(library: Library) -> str:
    """Return the metrics; where the database does not serve, that alone."""
    try:
        found, total = library.page("", 0, NEWEST)
    except SweeperError:
        return "\n".join([*_about("sweeper_up", "Whether the database serves.", [("", 0)]), ""])
    return "\n".join([*_lines(found, total), ""])


def _lines(found: list[Snapshot], total: int) -> Iterator[str]:
    yield from _about("sweeper_up", "Whether the database serves.", [("", 1)])
    info = f'{{version="{version("sweeper")}"}}'
    yield from _about("sweeper_info", "The version of the service.", [(info, 1)])
    yield from _about("sweeper_studies", "Studies in the database.", [("", total)])
    states = [(_label(s, state=state), int(s.state == state)) for s in found for state in _STATES]
    yield from _about("sweeper_study_state", "1 for the state that a study is in.", states)
    counts = ("complete", "pruned", "failed", "running", "waiting")
    trials = [
        (_label(s, state=state), getattr(s.progress, state)) for s in found for state in counts
    ]
    yield from _about("sweeper_trials", "Trials of a study by state.", trials)
    workers = [(_label(s), s.working) for s in found]
    yield from _about("sweeper_workers", "Processes that hold a trial of a study.", workers)
    for name, words in (("best", "Lowest value of a study's metric."), ("baseline", "At ε = 0.")):
        values = [(_label(s), getattr(s.progress, name)) for s in found]
        yield from _about(f"sweeper_{name}", words, [(k, v) for k, v in values if v is not None])


def _about(name: str, words: str, samples: Sequence[tuple[str, float]]) -> Iterator[str]:
    yield f"# HELP {name} {words}"
    yield f"# TYPE {name} gauge"
    for labels, value in samples:
        yield f"{name}{labels} {float(value):g}"


def _label(snapshot: Snapshot, **more: str) -> str:
    # A study's name has no character that would have to be escaped.
    pairs = {"study": snapshot.name, **more}
    return "{" + ",".join(f'{key}="{value}"' for key, value in pairs.items()) + "}"
