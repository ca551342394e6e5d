"""Training of several runs in one pack."""

from collections.abc import Iterator, Sequence

from sweeper.training import Evaluation, Task, TrainingRun
from sweeper.training.packed.pack import Pack


def pack_evaluations(
    task: Task, runs: Sequence[TrainingRun], epochs: int
) -> Iterator[tuple[int, int, Evaluation]]:
    """Train runs together; yield each run's index, epoch and evaluation.

    The state of an evaluation is valid until the next epoch.
    """
    pack = Pack(task, len(runs))
    members = [pack.join(run) for run in runs]
    for epoch in range(1, epochs + 1):
        for member, evaluation in pack.epoch():
            if isinstance(evaluation, Exception):
                raise evaluation
            yield members.index(member), epoch, evaluation
