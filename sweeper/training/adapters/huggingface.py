"""Adapter for the Trainer of Hugging Face transformers."""

import json
from functools import cache, partial
from pathlib import Path
from typing import Any

from sweeper.errors import TrialPruned, TrialReleased
from sweeper.extras import require
from sweeper.training.adapters.checks import check_setting
from sweeper.training.adapters.predictions import Predictions
from sweeper.training.run import TrainingRun

try:
    from transformers import PreTrainedModel, Trainer, TrainerCallback
    from transformers.loss.loss_utils import LOSS_MAPPING, ForCausalLMLoss
    from transformers.trainer_callback import ExportableState
except ImportError:
    require("huggingface", "sweeper.training.adapters.huggingface")
    raise


def train(run: TrainingRun, trainer: Trainer, test_dataset: Any = None) -> None:
    """Train with the loss of the run, and report each evaluation on `trainer.eval_dataset`.

    Resumes from the latest complete checkpoint that it has written to `run.directory`. If training
    ends early, or with the best of its models, the model is evaluated once more, and that is the
    result. `test_dataset` is the test split of a confirmation. The results of
    `trainer.compute_metrics` are reported as `extra`. Raises `TrialPruned` or `TrialReleased` after
    the trainer has ended, and ValueError, naming the argument, for arguments that a study cannot
    use, and for a trainer that has trained before.
    """
    arguments, seed = trainer.args, run.seed % 2**32
    name = "TrainingArguments."
    check_setting(f"{name}output_dir", arguments.output_dir, str(run.directory), "run.directory")
    check_setting(f"{name}seed", arguments.seed, seed, "run.seed % 2**32")
    text = "0, because the loss of the run smooths the labels"
    check_setting(f"{name}label_smoothing_factor", arguments.label_smoothing_factor, 0.0, text)
    if trainer.state.global_step:
        raise ValueError(
            "the Trainer has trained before; call huggingface.train(run, trainer) in place of "
            "trainer.train()"
        )
    if isinstance(trainer.eval_dataset, dict):
        raise ValueError("Trainer.eval_dataset is a dict; it must be one dataset")
    adapter = _Adapter(run, trainer, test_dataset)
    trainer.train(resume_from_checkpoint=adapter.checkpoint)
    if not trainer.state.global_step:
        raise ValueError(
            "the Trainer has trained for 0 steps; set TrainingArguments.num_train_epochs or "
            "max_steps to at least 1"
        )
    if adapter.stopped is None and not adapter.complete:
        adapter.ended = True
        trainer.evaluate()
    trainer.remove_callback(adapter)
    if adapter.stopped is not None:
        raise adapter.stopped


class _Adapter(TrainerCallback, ExportableState):
    """Reports evaluations. Checkpoints list it, which tells them from those of other trainers."""

    def __init__(self, run: TrainingRun, trainer: Trainer, test_dataset: Any) -> None:
        self.checkpoint, self.complete, self.ended = _latest_checkpoint(run.directory), False, False
        self.stopped: TrialPruned | TrialReleased | None = None
        self._run, self._test_dataset = run, test_dataset
        loss = LOSS_MAPPING.get(getattr(trainer.model, "loss_type", None))
        causal = loss is ForCausalLMLoss and not trainer.model.config.is_encoder_decoder
        self._predictions = Predictions(run, trainer, causal=causal)
        trainer.add_callback(self)

    def state(self) -> dict[str, Any]:
        return {"args": {}, "attributes": {}}

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
        if self.checkpoint is not None and isinstance(model, PreTrainedModel):
            # The trainer ignores weights that have another name in files, as those of ViT.
            model.load_state_dict(type(model).from_pretrained(self.checkpoint).state_dict())

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._predictions.loss.progress = state.global_step / state.max_steps

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        scorer, extra = self._predictions.take(), self._predictions.extra
        progress = 1.0 if self.ended else state.global_step / state.max_steps
        if progress == 0 or (progress == 1 and args.load_best_model_at_end and not self.ended):
            return  # eval_on_start, or the best model is evaluated later
        self.complete, splits = progress == 1, dict[Any, Any]()
        if self._test_dataset is not None:
            predict = cache(partial(self._predictions.predict, self._test_dataset))
            splits["test"] = predict
            if self.complete and args.world_size > 1:
                predict()  # on all ranks, because only rank 0 calls the function
        try:
            self._run.report(scorer, progress=progress, extra=extra, splits=splits)
        except (TrialPruned, TrialReleased) as stopped:
            self.stopped, control.should_training_stop = stopped, True
            control.should_save = isinstance(stopped, TrialReleased)


def _latest_checkpoint(folder: Path) -> str | None:
    """Return the latest complete checkpoint of the adapter: trainer_state.json is written last."""
    files = {path: path.read_bytes() for path in folder.glob("checkpoint-*/trainer_state.json")}
    complete = [
        path.parent
        for path, content in files.items()
        if content.endswith(b"\n}\n")
        and _Adapter.__name__ in json.loads(content).get("stateful_callbacks", {})
    ]
    latest = max(complete, key=lambda path: int(path.name.partition("-")[2]), default=None)
    return None if latest is None else str(latest)
