"""Adapter for the Trainer of Hugging Face transformers."""

from pathlib import Path
from typing import Any

from torch import Tensor, as_tensor
from torch.nn.functional import cross_entropy

from sweeper.errors import TrialPruned, TrialReleased
from sweeper.extras import require
from sweeper.training.outputs import IGNORED, Scorer
from sweeper.training.run import TrainingRun

try:
    from transformers import PreTrainedModel, Trainer, TrainerCallback
    from transformers.loss.loss_utils import LOSS_MAPPING, ForCausalLMLoss
except ImportError:
    require("huggingface", "sweeper.training.adapters.huggingface")
    raise


def train(run: TrainingRun, trainer: Trainer, test_dataset: Any = None) -> None:
    """Train with the loss of the run, and report each evaluation on `trainer.eval_dataset`.

    Resumes from the latest complete checkpoint in `run.directory`. `test_dataset` is the test split
    of a confirmation. The results of `trainer.compute_metrics` are reported as `extra`. Raises
    `TrialPruned` or `TrialReleased` after the trainer has ended, and ValueError, naming the
    argument, for arguments that a study cannot use.
    """
    _check(run, trainer)
    adapter = _Adapter(run, trainer, test_dataset)
    trainer.train(resume_from_checkpoint=adapter.checkpoint)
    if not adapter.reported:  # the checkpoint is that of the last step
        trainer.evaluate()
    trainer.remove_callback(adapter)
    if adapter.stopped is not None:
        raise adapter.stopped


class _Adapter(TrainerCallback):
    def __init__(self, run: TrainingRun, trainer: Trainer, test_dataset: Any) -> None:
        self.reported, self.checkpoint = False, _latest_checkpoint(run.directory)
        self.stopped: TrialPruned | TrialReleased | None = None
        self._run, self._trainer, self._test_dataset = run, trainer, test_dataset
        self._loss, self._metrics = run.loss(reduction="sum"), trainer.compute_metrics
        self._scorer, self._extra = run.scorer(), dict[str, float]()
        trainer.compute_loss_func, trainer.compute_metrics = self._compute_loss, self._collect
        trainer.add_callback(self)

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
        if self.checkpoint is not None and isinstance(model, PreTrainedModel):
            # The trainer ignores weights that have another name in files, as those of ViT.
            model.load_state_dict(type(model).from_pretrained(self.checkpoint).state_dict())

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._loss.progress = state.global_step / state.max_steps

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        scorer = self._take()
        if state.global_step == 0:  # eval_on_start
            return
        splits: Any = {} if self._test_dataset is None else {"test": self._predict_test}
        progress, self.reported = state.global_step / state.max_steps, True
        try:
            self._run.report(scorer, progress=progress, extra=self._extra, splits=splits)
        except (TrialPruned, TrialReleased) as stopped:
            self.stopped, control.should_training_stop = stopped, True
            control.should_save = isinstance(stopped, TrialReleased)

    def _compute_loss(self, outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Tensor:
        logits, labels = self._aligned(outputs["logits"], labels)
        logits, labels = logits.flatten(0, -2), labels.flatten()
        items: Any = (labels != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch
        if self._trainer.model.training:
            total: Tensor = self._loss(logits, labels)
        else:
            total = cross_entropy(logits.float(), labels, reduction="sum")
        loss: Tensor = total / items
        return loss

    def _collect(self, prediction: Any, **options: Any) -> Any:
        """Collect the outputs; `prediction` has those of all examples, or those of a batch."""
        logits = prediction.predictions
        logits = logits[0] if isinstance(logits, tuple) else logits
        logits, labels = self._aligned(logits, prediction.label_ids)
        self._scorer.add(as_tensor(logits).movedim(-1, 1), labels)
        self._extra = {} if self._metrics is None else self._metrics(prediction, **options)
        return self._extra

    def _predict_test(self) -> Scorer:
        self._trainer.predict(self._test_dataset)
        return self._take()

    def _take(self) -> Scorer:
        """Return the collected outputs, and start the next evaluation."""
        scorer, self._scorer = self._scorer, self._run.scorer()
        return scorer

    def _aligned(self, logits: Any, labels: Any) -> tuple[Any, Any]:
        """Remove the positions without a target: a causal model predicts the next token."""
        model = self._trainer.model
        causal = LOSS_MAPPING.get(getattr(model, "loss_type", None)) is ForCausalLMLoss
        if causal and not model.config.is_encoder_decoder:
            return logits[:, :-1], labels[:, 1:]
        return logits, labels


def _check(run: TrainingRun, trainer: Trainer) -> None:
    allowed = {
        "output_dir": (str(run.directory), "run.directory"),
        "seed": (run.seed % 2**32, "run.seed % 2**32"),
        "label_smoothing_factor": (0.0, "0, because the loss of the run smooths the labels"),
    }
    for name, (value, description) in allowed.items():
        given = getattr(trainer.args, name)
        if given != value:
            raise ValueError(f"TrainingArguments.{name} is {given!r}; it must be {description}")
    if isinstance(trainer.eval_dataset, dict):
        raise ValueError("Trainer.eval_dataset is a dict; it must be one dataset")


def _latest_checkpoint(folder: Path) -> str | None:
    """Return the latest complete checkpoint: trainer_state.json is written last."""
    files = folder.glob("checkpoint-*/trainer_state.json")
    complete = [path.parent for path in files if path.read_bytes().endswith(b"\n}\n")]
    latest = max(complete, key=lambda path: int(path.name.partition("-")[2]), default=None)
    return None if latest is None else str(latest)
