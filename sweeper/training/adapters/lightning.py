"""Adapter for the Trainer of Lightning."""

import math
from typing import Any, Final

import torch

from sweeper.extras import require
from sweeper.training.adapters.checks import check_setting
from sweeper.training.adapters.criterion import Criterion
from sweeper.training.adapters.ranks import Report, reports_of_ranks
from sweeper.training.outputs import Outputs
from sweeper.training.run import TrainingRun

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.utilities.combined_loader import CombinedLoader
except ImportError:
    require("lightning", "sweeper.training.adapters.lightning")
    raise


_LENGTH: Final = (
    "set max_epochs of the Trainer, or max_steps if the data has no length; max_time alone does "
    "not say how far the training is"
)


def fit(
    run: TrainingRun,
    trainer: Trainer,
    model: LightningModule,
    train_dataloaders: Any,
    val_dataloaders: Any = None,
    test_dataloaders: Any = None,
) -> None:
    """Train with the loss of the run, and report each validation.

    The steps of the model must call the one `nn.CrossEntropyLoss` that it has as an attribute. In
    training, it is replaced by the loss of the run; in validation and test, its arguments are
    reported. After training, also if it ends early, the model is validated once more, and that
    is the result. `test_dataloaders` are the test split of a confirmation. `train_dataloaders` and
    `test_dataloaders` can be a datamodule. Resumes from the checkpoint in `run.directory`, which is
    written after each epoch. Several devices need the strategy "ddp_fork" or torchrun. Raises
    `TrialPruned` or `TrialReleased` after the trainer has ended, and ValueError for a trainer, a
    model or data that a study cannot use.
    """
    root = str(trainer.default_root_dir)
    check_setting("Trainer.default_root_dir", root, str(run.directory), "run.directory")
    _check_trains(trainer)
    with reports_of_ranks(run, trainer) as report:
        adapter = _Adapter(Criterion(run, model), report)
        saved = ModelCheckpoint(run.directory, "latest", enable_version_counter=False)
        trainer.callbacks += [adapter, saved]
        latest = run.directory / "latest.ckpt"
        checkpoint = latest if latest.exists() else None
        trainer.fit(model, train_dataloaders, val_dataloaders, ckpt_path=checkpoint)
    if adapter.stopped is not None:
        raise adapter.stopped
    if not trainer.is_global_zero:
        return

    def evaluated(method: str, data: Any) -> Outputs:
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        alone = Trainer(accelerator=run.device.type, devices=1, callbacks=[adapter], **quiet)
        getattr(alone, method)(model, data, verbose=False)
        return adapter.criterion.outputs()

    splits = dict[Any, Any]()
    if test_dataloaders is not None:
        splits["test"] = lambda: evaluated("test", test_dataloaders)
    valid = train_dataloaders if val_dataloaders is None else val_dataloaders
    outputs: Any = evaluated("validate", valid)._asdict()
    run.report(**outputs, progress=1.0, extra=trainer.callback_metrics, splits=splits)


def _check_trains(trainer: Trainer) -> None:
    """Raise ValueError if `trainer.fit` would train nothing, or without a known end."""
    if trainer.global_step:
        raise ValueError(
            "the Trainer has trained before; call lightning.fit(run, trainer, model, ...) in place "
            "of trainer.fit(model, ...)"
        )
    for name in ("max_epochs", "max_steps", "limit_train_batches"):
        if getattr(trainer, name) == 0:
            raise ValueError(f"Trainer.{name} is 0, so nothing is trained; set it above 0")
    if trainer.max_epochs == -1 and trainer.max_steps == -1:
        raise ValueError(f"the length of the training is not known; {_LENGTH}")


class _Adapter(Callback):
    def __init__(self, criterion: Criterion, report: Report) -> None:
        self.stopped: Exception | None = None
        self.criterion, self._report = criterion, report

    def on_validation_start(self, trainer: Trainer, *_: Any) -> None:
        data = trainer.test_dataloaders if trainer.testing else trainer.val_dataloaders
        loaders = CombinedLoader(data).flattened
        check_setting("Number of dataloaders of an evaluation", len(loaders), 1, "1")
        self.criterion.begin(loaders[0], trainer.global_rank, trainer.world_size)

    on_test_start = on_validation_start

    def on_validation_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit" or _progress(trainer) == 1.0:
            return
        logits, labels, groups = self.criterion.gathered()
        metrics, progress = trainer.callback_metrics, _progress(trainer)
        options = {"groups": groups, "progress": progress, "extra": metrics}
        stopped = self._report(logits, labels, **options) if trainer.is_global_zero else None
        self.stopped = trainer.strategy.broadcast(stopped)
        if self.stopped is not None:
            trainer.should_stop = True
            trainer.fit_loop.min_epochs, trainer.fit_loop.epoch_loop.min_steps = 0, None

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self.criterion.smoothed.progress = _progress(trainer)

    # Lightning does not restore the random state, on which the order of the batches depends.
    def on_save_checkpoint(self, trainer: Trainer, _: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["random_state"] = torch.get_rng_state()

    def on_load_checkpoint(self, trainer: Trainer, _: Any, checkpoint: dict[str, Any]) -> None:
        if trainer.is_global_zero:
            torch.set_rng_state(checkpoint["random_state"])


def _progress(trainer: Trainer) -> float:
    steps = trainer.estimated_stepping_batches
    if not 0 < steps < math.inf:  # as with data without a length
        raise ValueError(f"the number of training steps is not known; {_LENGTH}")
    return min(float(trainer.global_step / steps), 1.0)
