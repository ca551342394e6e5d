"""Adapter for the Trainer of Lightning."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sweeper.errors import TrialPruned, TrialReleased
from sweeper.extras import require
from sweeper.training.adapters.ranks import Relay, forks, gathered
from sweeper.training.outputs import Scorer
from sweeper.training.run import TrainingRun

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.callbacks import ModelCheckpoint
except ImportError:
    require("lightning", "sweeper.training.adapters.lightning")
    raise


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
    reported. `test_dataloaders` are the test split of a confirmation. `train_dataloaders` and
    `test_dataloaders` can be a datamodule. Resumes from the checkpoint in `run.directory`, which is
    written after each epoch. Several devices need the strategy "ddp_fork" or torchrun. Raises
    `TrialPruned` or `TrialReleased` after the trainer has ended, and ValueError for a trainer or a
    model that a study cannot use.
    """
    if Path(trainer.default_root_dir).resolve() != run.directory.resolve():
        raise ValueError(
            f"Trainer.default_root_dir is {trainer.default_root_dir!r}; it must be run.directory"
        )
    relay = Relay(run)
    adapter = _Adapter(run, model, relay.for_child() if forks(trainer) else relay.report)
    saved = ModelCheckpoint(run.directory, "latest", enable_version_counter=False)
    trainer.callbacks += [adapter, saved]
    latest = run.directory / "latest.ckpt"
    checkpoint = latest if latest.exists() else None
    trainer.fit(model, train_dataloaders, val_dataloaders, ckpt_path=checkpoint)
    stopped = relay.stopped or adapter.stopped
    if stopped is not None:
        raise stopped
    if trainer.global_rank != 0:
        return

    def evaluated(method: str, data: Any) -> Scorer:
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        alone = Trainer(accelerator=run.device.type, devices=1, callbacks=[adapter], **quiet)
        getattr(alone, method)(model, data, verbose=False)
        return adapter.scorer

    splits: Any = {}
    if test_dataloaders is not None:
        splits["test"] = lambda: evaluated("test", test_dataloaders)
    if not relay.reported:  # the checkpoint is that of the end
        relay.report(evaluated("validate", val_dataloaders or train_dataloaders), progress=1.0)
    if relay.last is not None:
        outputs, options = relay.last
        run.report(*outputs, **options, splits=splits)


class _Adapter(Callback):
    def __init__(
        self, run: TrainingRun, model: LightningModule, report: Callable[..., None]
    ) -> None:
        self.stopped: Exception | None = None
        self._run, self._report = run, report
        name, plain = _loss_of(model)
        arguments = {key: getattr(plain, key) for key in ("weight", "ignore_index", "reduction")}
        self._smoothed = run.loss(**arguments)
        self._loss = _Loss(plain, self._smoothed)
        setattr(model, name, self._loss)

    @property
    def scorer(self) -> Scorer:
        """The outputs of the last evaluation."""
        return self._loss.scorer

    def on_validation_start(self, *_: Any) -> None:
        self._loss.scorer = self._run.scorer(ignore_index=self._loss.plain.ignore_index)

    on_test_start = on_validation_start

    def on_validation_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        outputs = gathered(self.scorer.outputs(), trainer)
        metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
        stopped = None
        if trainer.is_global_zero:
            try:
                self._report(
                    outputs.logits,
                    outputs.labels,
                    groups=outputs.groups,
                    progress=_progress(trainer),
                    extra=metrics,
                )
            except (TrialPruned, TrialReleased) as error:
                stopped = error
        self.stopped = trainer.strategy.broadcast(stopped)
        if self.stopped is not None:
            trainer.should_stop = True
            trainer.fit_loop.min_epochs, trainer.fit_loop.epoch_loop.min_steps = 0, None

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self._smoothed.progress = _progress(trainer)

    # Lightning does not restore the random state, on which the order of the batches depends.
    def on_save_checkpoint(self, trainer: Trainer, _: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["random_state"] = torch.get_rng_state()

    def on_load_checkpoint(self, trainer: Trainer, _: Any, checkpoint: dict[str, Any]) -> None:
        if trainer.is_global_zero:
            torch.set_rng_state(checkpoint["random_state"])


class _Loss(nn.Module):
    """The loss of the run in training. Otherwise the loss of the model; collects its arguments."""

    scorer: Scorer

    def __init__(self, plain: nn.CrossEntropyLoss, smoothed: nn.Module) -> None:
        super().__init__()
        self.plain, self.smoothed = plain, smoothed

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        if not self.training:
            self.scorer.add(logits, labels)
        loss: Tensor = (self.smoothed if self.training else self.plain)(logits, labels)
        return loss


def _loss_of(model: LightningModule) -> tuple[str, nn.CrossEntropyLoss]:
    losses = {
        name: child
        for name, child in model.named_children()
        if isinstance(child, nn.CrossEntropyLoss) and child.label_smoothing == 0
    }
    if len(losses) != 1:
        raise ValueError(
            f"{type(model).__name__} has {len(losses)} attributes of type nn.CrossEntropyLoss "
            "without label_smoothing; it must have one, which its steps call"
        )
    return losses.popitem()


def _progress(trainer: Trainer) -> float:
    return min(float(trainer.global_step / trainer.estimated_stepping_batches), 1.0)
