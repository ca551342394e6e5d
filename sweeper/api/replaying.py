"""Replaying a trial: it is trained again and compared bit for bit with the stored results."""

from pathlib import Path

from sweeper.replaying.replay import OnEpoch, Replay, replay_trial
from sweeper.replaying.stored_trial import read_stored_run
from sweeper.store.database import open_reader
from sweeper.store.studies import get_study
from sweeper.store.urls import DEFAULT_STORAGE


def replay(
    name: str,
    trial: int,
    storage: str = DEFAULT_STORAGE,
    *,
    folder: str | Path | None = None,
    on_epoch: OnEpoch = lambda *_: None,
) -> Replay:
    """Train an ended trial again in the same way and compare the results; store nothing.

    `folder` is the folder of the task files on this machine; None is the folder where the launch
    read them. Raises `SweeperError` if there is nothing to compare with or the task files have
    changed.
    """
    reader = open_reader(storage)
    try:
        study = get_study(reader, name)
        stored_run = read_stored_run(reader, study, trial)
    finally:
        reader.close()
    return replay_trial(study, stored_run, None if folder is None else Path(folder), on_epoch)
