"""Metrics in the text format of Prometheus."""

from collections.abc import Iterator, Sequence
from typing import Final

from sweeper.errors import SweeperError
from sweeper.service.study_reader import StudyReader, StudyStatus
from sweeper.version import __version__

# Number of studies with metrics of their own: the newest ones.
NEWEST: Final = 100
_STATES: Final = (*("running", "unfinished", "paused", "stopped", "failed", "finished", "damaged"),)


def metrics_text(study_reader: StudyReader) -> str:
    """Return the metrics; only `sweeper_up 0` if the database is unavailable."""
    try:
        studies, total = study_reader.page("", 0, NEWEST)
    except SweeperError:
        return "\n".join(
            [*_about("sweeper_up", "Whether the database is available.", [("", 0)]), ""]
        )
    return "\n".join([*_lines(studies, total), ""])


def _lines(studies: list[StudyStatus], total: int) -> Iterator[str]:
    yield from _about("sweeper_up", "Whether the database is available.", [("", 1)])
    info = f'{{version="{__version__}"}}'
    yield from _about("sweeper_info", "The version of the service.", [(info, 1)])
    yield from _about("sweeper_studies", "Studies in the database.", [("", total)])
    states = [(_label(s, state=state), int(s.state == state)) for s in studies for state in _STATES]
    yield from _about("sweeper_study_state", "1 for the state that a study is in.", states)
    counts = ("complete", "pruned", "failed", "running", "waiting")
    trials = [
        (_label(s, state=state), getattr(s.progress, state)) for s in studies for state in counts
    ]
    yield from _about("sweeper_trials", "Trials of a study by state.", trials)
    workers = [(_label(s), s.working) for s in studies]
    yield from _about("sweeper_workers", "Processes that run a trial of a study.", workers)
    for name, words in (("best", "Lowest value of a study's metric."), ("baseline", "At ε = 0.")):
        values = [(_label(s), getattr(s.progress, name)) for s in studies]
        yield from _about(f"sweeper_{name}", words, [(k, v) for k, v in values if v is not None])


def _about(name: str, words: str, samples: Sequence[tuple[str, float]]) -> Iterator[str]:
    yield f"# HELP {name} {words}"
    yield f"# TYPE {name} gauge"
    for labels, value in samples:
        yield f"{name}{labels} {float(value):g}"


def _label(status: StudyStatus, **more: str) -> str:
    # Study names contain no characters that need escaping.
    pairs = {"study": status.name, **more}
    return "{" + ",".join(f'{key}="{value}"' for key, value in pairs.items()) + "}"
