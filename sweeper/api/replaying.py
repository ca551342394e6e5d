"""Replaying a trial: trained again, and compared to the last bit with what is stored."""

from pathlib import Path

from sweeper.replaying.replay import OnReplayed, Replay, replay_trial
from sweeper.replaying.stored_trial import read_original
from sweeper.store.database import open_reader
from sweeper.store.studies import get_study
from sweeper.store.urls import DEFAULT_STORAGE


def replay(
    name: str,
    trial: int,
    storage: str = DEFAULT_STORAGE,
    *,
    folder: str | Path | None = None,
    on_epoch: OnReplayed = lambda *_: None,
) -> Replay:
    """Train a trial that has ended again, as it was trained, and compare; writes nothing.

    `folder` is where task files lie on this machine, if not where the launch read them. Raises
    `SweeperError` where there is nothing to compare with or the task files have changed.
    """
    reader = open_reader(storage)
    try:
        study = get_study(reader, name)
        original = read_original(reader, study, trial)
    finally:
        reader.close()
    return replay_trial(study, original, None if folder is None else Path(folder), on_epoch)
