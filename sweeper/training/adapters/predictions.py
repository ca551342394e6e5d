"""The loss of a Hugging Face Trainer, and the outputs of its evaluations."""

from functools import partial
from typing import Any

from torch import Tensor, as_tensor
from torch.nn.functional import cross_entropy

from sweeper.training.outputs import IGNORED, Scorer
from sweeper.training.run import TrainingRun


class Predictions:
    """Replaces the loss of a trainer, smoothed in training only, and collects its outputs.

    `causal` says that the model predicts the next token. `extra` are the results of
    `compute_metrics` for the last evaluation.
    """

    def __init__(self, run: TrainingRun, trainer: Any, *, causal: bool) -> None:
        self.loss, self.extra = run.loss(reduction="sum"), dict[str, float]()
        self._run, self._trainer, self._scorer = run, trainer, run.scorer()
        self._metrics, self._causal = trainer.compute_metrics, causal
        trainer.compute_loss_func, trainer.compute_metrics = self._compute_loss, self._collect

    def predict(self, dataset: Any) -> Scorer:
        """Return the outputs for a dataset."""
        self._trainer.predict(dataset)
        return self.take()

    def take(self) -> Scorer:
        """Return the collected outputs, and start the next evaluation."""
        scorer, self._scorer = self._scorer, self._run.scorer()
        return scorer

    def _compute_loss(self, outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Tensor:
        logits, labels = self._aligned(outputs["logits"], labels)
        logits, labels = logits.flatten(0, -2), labels.flatten()
        items: Any = (labels != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch
        smoothed = self._trainer.model.training
        loss = self.loss if smoothed else partial(cross_entropy, reduction="sum")
        total: Tensor = loss(logits if smoothed else logits.float(), labels) / items
        return total

    def _collect(self, prediction: Any, **options: Any) -> Any:
        """Collect the outputs; `prediction` has those of all examples, or those of a batch."""
        logits = prediction.predictions
        logits = logits[0] if isinstance(logits, tuple) else logits
        logits, labels = self._aligned(logits, prediction.label_ids)
        self._scorer.add(as_tensor(logits).movedim(-1, 1), labels)
        self.extra = {} if self._metrics is None else self._metrics(prediction, **options)
        return self.extra

    def _aligned(self, logits: Any, labels: Any) -> tuple[Any, Any]:
        """Remove the positions without a target."""
        return (logits[:, :-1], labels[:, 1:]) if self._causal else (logits, labels)
