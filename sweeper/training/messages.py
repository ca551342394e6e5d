"""Messages between a worker and a trainer; they are sent as JSON."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Self

# Tolerance, because progress may be a sum of rounded fractions.
ROUNDING: Final = 1e-9

# Why a training run failed. "lost" and "crashed" runs failed after retries.
Cause = Literal["", "raised", "diverged", "memory", "timeout", "exited", "crashed", "lost"]

# What a training run delivers: logits and labels; the NLL and correctness of each example; or
# numbers that it computed itself, which never lead to a verdict.
Grade = Literal["scored", "per-example", "self-reported"]
# Key of the grade in the environment of a trial of a script; other trials are always "scored".
EVIDENCE: Final = "evidence"
# Key of the digest of the validation labels in the environment of a trial, with the data seed.
LABELS: Final = "labels of data seed {}"
# Key in the state of a run and in the environment of a trial: the run was trained in a pack and
# must resume in a pack to get the same bits.
PACKED: Final = "packed"
# The values that a confirmation stores for each test example.
EXAMPLE_VALUES: Final = (
    "nll",
    "nll_calibrated",
    "brier",
    "correct",
    "confidence",
    "confidence_calibrated",
)
# Key of the number of groups of the test examples, next to the number of examples of each split.
TEST_GROUPS: Final = "test_groups"
_ADD_TEST: Final = (
    "pass splits={'test': function} to run.report(...) or Evaluation(...), where function returns "
    "logits and labels of data that was not used for training or selection"
)
NO_TEST: Final = f"the training function has no test split; {_ADD_TEST}"
NO_TEST_YET: Final = (
    "the first report has no test split; without one in the last report, a confirmation will not "
    f"be possible; {_ADD_TEST}"
)


@dataclass(frozen=True)
class FullScores:
    """Which reports need all scores; the last report of a training run always has them.

    `number` is the number of one such report. If `steps` is not 0, progress is divided into `steps`
    equal steps, and the first report of each step has all scores, from step `first` on.
    """

    number: int | None = None
    steps: int = 0
    first: int = 0

    def includes(self, number: int, progress: float, before: float | None) -> bool:
        """Return whether a report has all scores; `before` is the progress of the previous one."""
        if progress == 1.0 or number == self.number:
            return True
        if not self.steps:
            return False
        step = math.floor(progress * self.steps + ROUNDING)
        done = -1 if before is None else math.floor(before * self.steps + ROUNDING)
        return max(self.first, done + 1) <= step < self.steps


@dataclass(frozen=True)
class Start:
    """A training run for a trainer.

    `key` identifies the run among the runs of the trainer. `smoothing` contains the arguments of
    `Smoothing`. `device` is a name for `pick_device`. `packed` says whether to train the run in a
    pack; if it is None, the trainer decides. `claim` is the number of this claim of the ticket.
    `reported` are the progresses of the reports of earlier claims, in the order of their numbers.
    `identity` and `weights_identity` are the keys stored in the files. `checkpoint` is the path of
    the checkpoints without the ending, `weights` the file for the model's weights, and `arrays` the
    file for the test examples of a confirmation; None if not needed.
    `number` and `directory` are those of `TrainingRun`; a directory of None is the current one.
    `socket` is the path of the socket for a script. `observed` is the folder for the records of a
    check; None if the run is not observed.
    """

    key: str
    smoothing: Sequence[Any]
    seed: int
    data_seed: int
    hparams: Mapping[str, Any] = field(default_factory=dict)
    number: int = 0
    device: str = "auto"
    packed: bool | None = None
    full: FullScores = field(default_factory=FullScores)
    claim: int = 1
    reported: Sequence[float] = ()
    identity: str = ""
    checkpoint: str | None = None
    weights: str | None = None
    weights_identity: str = ""
    arrays: str | None = None
    directory: str | None = None
    socket: str = ""
    observed: str | None = None

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Self:
        return cls(**{**plain, "full": FullScores(**plain["full"])})


@dataclass(frozen=True)
class Report:
    """The report of a training run after an epoch; it contains scores, not arrays.

    `scores` are the fields of `Scores`; `classes` is None if they are not computed from logits.
    `number` counts reports from 1. `seconds` is the training time so far over all attempts.
    `replicate_result` contains the scores and row counts of the other splits, for a confirmation.
    `environment` is what determines the bits of the result; it is sent with the first report only.
    """

    key: str
    number: int
    progress: float
    epsilon: float
    scores: Mapping[str, float | None]
    classes: int | None
    seconds: float
    mean_epsilon: float | None = None
    train_loss: float | None = None
    extra: Mapping[str, float] = field(default_factory=dict)
    splits: Sequence[str] = ()
    packed: bool = False
    notes: Sequence[str] = ()
    replicate_result: Mapping[str, Any] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingEnd:
    """The end of a training run; `last` is its last report, with all scores if it is complete.

    `problem` (exception type and line) is used to recognize equal failures; "" to use `failure`.
    """

    key: str
    state: Literal["complete", "stopped", "failed"]
    last: Report | None = None
    seconds: float = 0.0
    failure: str = ""
    cause: Cause = ""
    problem: str = ""
    notes: Sequence[str] = ()

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Self:
        last = plain["last"]
        return cls(**{**plain, "last": None if last is None else Report(**last)})


# What a training run does after a report: continue, stop because it is pruned, save a checkpoint
# and stop, or stop at once.
Action = Literal["continue", "prune", "release", "drop"]


@dataclass(frozen=True)
class Reply:
    """The reply to a report; if `weights` is true, the weights of the model are saved."""

    action: Action = "continue"
    weights: bool = False


@dataclass(frozen=True)
class FromTrainer:
    """A message of a trainer: the reports of one epoch, or the ends of training runs.

    `sources` are the SHA-256 digests of files of the study imported since the last message.
    `memory` is the peak memory of all processes in bytes, sent with the ends.
    """

    reports: Sequence[Report] = ()
    endings: Sequence[TrainingEnd] = ()
    sources: Mapping[str, str] = field(default_factory=dict)
    memory: int | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "reports": [vars(report) for report in self.reports],
            "endings": [
                {**vars(ending), "last": None if ending.last is None else vars(ending.last)}
                for ending in self.endings
            ],
            "sources": dict(self.sources),
            "memory": self.memory,
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Self:
        return cls(
            [Report(**report) for report in plain["reports"]],
            [TrainingEnd.from_dict(ending) for ending in plain["endings"]],
            plain["sources"],
            plain["memory"],
        )


@dataclass(frozen=True)
class ToTrainer:
    """A message to a trainer: a reply to each report, by key, and training runs to start."""

    replies: Mapping[str, Reply] = field(default_factory=dict)
    starts: Sequence[Start] = ()

    def to_dict(self) -> dict[str, Any]:
        return {
            "replies": {key: vars(reply) for key, reply in self.replies.items()},
            "starts": [{**vars(start), "full": vars(start.full)} for start in self.starts],
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Self:
        return cls(
            {key: Reply(**reply) for key, reply in plain["replies"].items()},
            [Start.from_dict(start) for start in plain["starts"]],
        )
