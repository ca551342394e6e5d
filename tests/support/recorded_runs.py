"""Run the study tests/recorded/digits.toml in four ways and print digests of its scores as JSON.

A process of its own: which instructions torch uses is decided when it is imported.
"""

import hashlib
import json
import os
import signal
import tempfile
import threading
from pathlib import Path
from typing import Any, Final

import sweeper
from sweeper import Study
from sweeper.api import WorkerOptions, run_worker

STUDY: Final = Path(__file__).parent.parent / "recorded" / "digits.toml"
NAME: Final = "recorded"
EPOCH_COLUMNS: Final = [
    *("epoch", "progress", "epsilon", "mean_epsilon", "train_loss"),
    *("nll", "accuracy", "brier", "ece"),
]
TRIAL_COLUMNS: Final = [
    *("epsilon", "rate", "value", "nll", "accuracy", "brier", "ece", "temperature"),
    *("nll_calibrated", "ece_calibrated", "ece_adaptive", "ece_classwise", "ece_debiased"),
    *("overconfidence", "underconfidence", "aurc", "eaurc", "entropy"),
]


def digests(study: Study) -> list[str]:
    """Return a digest of the stored scores of each trial and of each of its epochs."""
    trials, epochs = study.frame(), study.epochs()
    assert trials["state"].tolist() == ["complete"] * 10
    rows = [
        [
            trial[TRIAL_COLUMNS].astype(float).tolist(),
            *epochs.loc[epochs["number"] == number, EPOCH_COLUMNS].astype(float).values.tolist(),
        ]
        for number, trial in trials.set_index("number", drop=False).iterrows()
    ]
    return [_digest([[value.hex() for value in row] for row in trial]) for trial in rows]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def launched(folder: Path, pack: str | int) -> Study:
    """Run the study in this process."""
    storage = f"sqlite:///{folder}/sweeper.db"
    return sweeper.launch(STUDY, pack=pack, workers=0, storage=storage, results=folder)


def interrupted(folder: Path) -> tuple[Study, int]:
    """Run the study by workers that SIGTERM ends; also return how many checkpoints they left."""
    storage = f"sqlite:///{folder}/sweeper.db"
    study = sweeper.launch(
        STUDY, pack="off", detach=True, workers=1, storage=storage, results=folder
    )
    checkpoints = 0
    for stored in (70, 210):
        over = threading.Event()
        watch = threading.Thread(target=terminate_after, args=(study, stored, over))
        watch.start()
        run_worker(WorkerOptions(NAME, folder), storage)
        over.set()
        watch.join()
        checkpoints += len(list(folder.glob("*/checkpoints/*.pt")))
    run_worker(WorkerOptions(NAME, folder), storage)
    return study, checkpoints


def terminate_after(study: Study, epochs: int, over: threading.Event) -> None:
    """Send this process SIGTERM when so many epochs are stored."""
    while not over.wait(0.02):
        if len(study.epochs()) >= epochs:
            os.kill(os.getpid(), signal.SIGTERM)
            return


def main() -> None:
    """Run and print."""
    with tempfile.TemporaryDirectory() as name:
        folders = [Path(name) / way for way in ("alone", "packed", "interrupted")]
        for folder in folders:
            folder.mkdir()
        alone, packed = launched(folders[0], "off"), launched(folders[1], 10)
        again, checkpoints = interrupted(folders[2])
        found = {
            "alone": digests(alone),
            "packed": digests(packed),
            "interrupted": digests(again),
            "checkpoints": checkpoints,
            "replays": [
                sweeper.replay(NAME, number, study.storage).to_dict()
                for study in (alone, packed)
                for number in (0, 7)
            ],
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
