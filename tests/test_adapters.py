"""The adapters for other frameworks: losses, reports, pruning and resuming, on tiny models."""

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from sklearn.metrics import log_loss
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import sweeper
from sweeper.api import Study
from sweeper.errors import TrialPruned
from sweeper.scoring import score
from sweeper.smoothing import Smoothing, SmoothingLoss
from sweeper.training.outputs import Outputs
from sweeper.training.run import Evaluation, TrainingRun
from tests.support.processes import run as run_command
from tests.support.studies import copy_task

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

EPSILON = 0.2


class Reports:
    """Records the reports of a training run, and prunes it at a report."""

    def __init__(self, prune_at: int = 0) -> None:
        self.losses = list[SmoothingLoss]()
        self.evaluations = list[Evaluation]()
        self._prune_at = prune_at

    def report(self, evaluation: Evaluation) -> None:
        self.evaluations.append(evaluation)
        if len(self.evaluations) == self._prune_at:
            raise TrialPruned

    @property
    def progress(self) -> list[float]:
        return [evaluation.progress for evaluation in self.evaluations]

    def nll(self, number: int = -1) -> float:
        """Return the NLL that sweeper computes from a report."""
        evaluation = self.evaluations[number]
        return score(evaluation.logits, evaluation.labels).nll


def make_run(
    folder: Path, reports: Reports, schedule: str = "linear", seed: int = 3
) -> TrainingRun:
    smoothing = Smoothing(EPSILON, schedule, None if schedule == "fixed" else 1.0)
    return TrainingRun(smoothing, seed, seed, directory=folder, reporter=reports)


def smoothed(logits: Any, labels: Any, epsilon: float) -> float:
    """Return the sum of the smoothed losses: 1 - epsilon on the label, the rest on the others."""
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    of_label = log_p[np.arange(len(labels)), labels]
    others = log_p.sum(1) - of_label
    return float(-((1 - epsilon) * of_label + epsilon / (logits.shape[1] - 1) * others).sum())


def oracle(logits: Any, labels: Any) -> float:
    """Return the NLL that scikit-learn computes from logits (N, K) and labels (N,)."""
    logits = np.asarray(logits, np.float64)
    exp = np.exp(logits - logits.max(1, keepdims=True))
    p = exp / exp.sum(1, keepdims=True)
    return float(log_loss(np.asarray(labels), p, labels=range(logits.shape[1])))


class Interrupted(Exception):
    """Ends a training run like a kill between a report and the next checkpoint."""


class TestHuggingFace:
    """sweeper.training.adapters.huggingface"""

    transformers: Any

    @pytest.fixture(autouse=True)
    def installed(self) -> None:
        """Skip the test if transformers is not installed."""
        self.transformers = pytest.importorskip("transformers", reason="not installed")

    def model(self, kind: str) -> Any:
        torch.manual_seed(0)
        small = {
            "hidden_size": 8,
            "intermediate_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
        }
        if kind == "images":
            config = self.transformers.ViTConfig(
                image_size=4, patch_size=2, num_channels=1, num_labels=3, **small
            )
            return self.transformers.ViTForImageClassification(config)
        if kind == "tokens":
            config = self.transformers.BertConfig(
                vocab_size=9, num_labels=4, hidden_dropout_prob=0.0, **small
            )
            config.attention_probs_dropout_prob = 0.0
            return self.transformers.BertForTokenClassification(config)
        config = self.transformers.LlamaConfig(vocab_size=9, **small)
        return self.transformers.LlamaForCausalLM(config)

    def examples(self, kind: str, number: int) -> list[dict[str, Tensor]]:
        """Return examples; those with tokens have different numbers of labels."""
        generator = torch.Generator().manual_seed(number)
        if kind == "images":
            images = torch.randn(number, 1, 4, 4, generator=generator)
            return [
                {"pixel_values": x, "labels": torch.tensor(i % 3)} for i, x in enumerate(images)
            ]
        tokens = torch.randint(9, (number, 6), generator=generator)
        labels = tokens % 4 if kind == "tokens" else tokens.clone()
        for row, label in enumerate(labels):
            label[: row % 5] = -100
        return [{"input_ids": x, "labels": y} for x, y in zip(tokens, labels, strict=True)]

    def rows(self, kind: str, logits: Any, labels: Any) -> tuple[Any, Any]:
        """Return the rows with a target; a causal model predicts the next token."""
        if kind == "causal":
            logits, labels = logits[:, :-1], labels[:, 1:]
        return logits[labels != -100], labels[labels != -100]

    def trainer(self, run: TrainingRun, kind: str, **arguments: Any) -> Any:
        defaults = {
            "output_dir": run.directory,
            "seed": run.seed,
            "num_train_epochs": 3,
            "per_device_train_batch_size": 4,
            "per_device_eval_batch_size": 64,
            "gradient_accumulation_steps": 2,
            "learning_rate": 0.01,
            "logging_steps": 1,
            "eval_strategy": "epoch",
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
        }
        return self.transformers.Trainer(
            self.model(kind),
            self.transformers.TrainingArguments(**{**defaults, **arguments}),
            train_dataset=self.examples(kind, 8),
            eval_dataset=self.examples(kind, 7),
        )

    def train(self, run: TrainingRun, trainer: Any, test_dataset: Any = None) -> None:
        from sweeper.training.adapters import huggingface

        huggingface.train(run, trainer, test_dataset)

    @pytest.mark.parametrize("kind", ["images", "tokens", "causal"])
    def test_reported_nll_is_that_of_the_predictions(self, kind: str, tmp_path: Path) -> None:
        reports = Reports()
        run = make_run(tmp_path, reports)
        trainer, test = self.trainer(run, kind), self.examples(kind, 5)
        trainer.compute_metrics = lambda prediction: {"examples": len(prediction.label_ids)}
        self.train(run, trainer, test)
        assert reports.progress == pytest.approx([1 / 3, 2 / 3, 1])
        assert [evaluation.extra for evaluation in reports.evaluations] == [{"examples": 7}] * 3
        last = reports.evaluations[-1]
        valid = Outputs(last.logits, last.labels, last.groups)
        reported = {"valid": valid, "test": last.splits["test"]().outputs()}
        for split, data in (("valid", trainer.eval_dataset), ("test", test)):
            predicted = trainer.predict(data)
            expected = oracle(*self.rows(kind, predicted.predictions, predicted.label_ids))
            logits, labels, groups = reported[split]
            assert score(logits, labels).nll == pytest.approx(expected, abs=1e-6)
            assert (groups is None) == (kind == "images")
        logged = [line["eval_loss"] for line in trainer.state.log_history if "eval_loss" in line]
        assert logged == pytest.approx([reports.nll(i) for i in range(3)], abs=1e-5)

    @pytest.mark.parametrize("kind", ["images", "tokens", "causal"])
    def test_training_loss_is_smoothed_over_all_labels_of_a_step(
        self, kind: str, tmp_path: Path
    ) -> None:
        run = make_run(tmp_path, Reports())
        trainer = self.trainer(run, kind, learning_rate=0.0)  # each step has all examples
        predicted = trainer.predict(trainer.train_dataset)
        self.train(run, trainer)
        logits, labels = self.rows(kind, predicted.predictions, predicted.label_ids)
        logged = [line["loss"] for line in trainer.state.log_history if "loss" in line]
        epsilons = [EPSILON, EPSILON * 2 / 3, EPSILON / 3]  # linear in the step
        expected = [smoothed(logits, labels, epsilon) / len(labels) for epsilon in epsilons]
        assert logged == pytest.approx(expected, abs=1e-5)

    def test_pruned_trial_ends_the_trainer(self, tmp_path: Path) -> None:
        class Ends(self.transformers.TrainerCallback):  # type: ignore[misc, name-defined]
            ended = 0

            def on_train_end(self, *_: Any, **__: Any) -> None:
                self.ended += 1

        ends = Ends()
        run = make_run(tmp_path, Reports(prune_at=2))
        trainer = self.trainer(run, "images", save_strategy="epoch")
        trainer.add_callback(ends)
        with pytest.raises(TrialPruned):
            self.train(run, trainer)
        assert trainer.state.global_step == 2
        assert ends.ended == 1
        assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-1"]

    @pytest.mark.parametrize("kind", ["images", "tokens"])
    def test_resumes_from_the_latest_complete_checkpoint(self, kind: str, tmp_path: Path) -> None:
        whole, rest = Reports(), Reports()
        folders = [tmp_path / "whole", tmp_path / "interrupted"]
        for folder in folders:
            folder.mkdir()
        run = make_run(folders[0], whole)
        self.train(run, self.trainer(run, kind, save_strategy="epoch"))
        first = Reports()
        run = make_run(folders[1], first)
        trainer = self.trainer(run, kind, save_strategy="epoch")
        trainer.add_callback(self.interrupting(trainer, 2))
        with pytest.raises(Interrupted):
            self.train(run, trainer)
        incomplete = folders[1] / "checkpoint-3"
        incomplete.mkdir()
        (incomplete / "trainer_state.json").write_text('{\n  "epoch"')
        run = make_run(folders[1], rest)
        self.train(run, self.trainer(run, kind, save_strategy="epoch"))
        assert rest.progress == whole.progress[1:]
        assert [rest.nll(0), rest.nll(1)] == [whole.nll(1), whole.nll(2)]
        again = Reports()  # killed after the last report: the last checkpoint has nothing to train
        run = make_run(folders[1], again)
        self.train(run, self.trainer(run, kind, save_strategy="epoch"))
        assert again.progress == [1.0]
        assert again.nll() == whole.nll()

    @pytest.mark.parametrize("best", [False, True])
    def test_a_run_that_stops_early_ends_with_an_evaluation(
        self, best: bool, tmp_path: Path
    ) -> None:
        reports = Reports()
        run = make_run(tmp_path, reports)
        arguments = {
            "metric_for_best_model": "count",
            "greater_is_better": True,
            "save_strategy": "epoch",
            "load_best_model_at_end": True,
            "num_train_epochs": 4,
            "learning_rate": 0.1,
        }
        trainer = self.trainer(run, "tokens", **arguments)
        trainer.args.load_best_model_at_end = best
        counts, test = iter([2, 1, 0, 0, 0]), self.examples("tokens", 5)
        trainer.compute_metrics = lambda _: {"count": next(counts)}  # the first model is the best
        trainer.add_callback(self.transformers.EarlyStoppingCallback(2))
        self.train(run, trainer, test)
        assert trainer.state.global_step == 3
        assert reports.progress == pytest.approx([1 / 4, 2 / 4, 3 / 4, 1])
        assert (reports.nll(3) == reports.nll(0)) == best
        last = reports.evaluations[-1]
        reported = {7: (last.logits, last.labels), 5: last.splits["test"]().outputs()[:2]}
        trainer.compute_metrics = None
        for number, outputs in reported.items():
            predicted = trainer.predict(self.examples("tokens", number))
            expected = oracle(*self.rows("tokens", predicted.predictions, predicted.label_ids))
            assert score(*outputs).nll == pytest.approx(expected, abs=1e-6)

    def interrupting(self, trainer: Any, step: int) -> Any:
        class Interrupts(self.transformers.TrainerCallback):  # type: ignore[misc, name-defined]
            def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                if state.global_step == step:
                    raise Interrupted

        return Interrupts()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"seed": 42}, r"TrainingArguments.seed is 42; it must be run.seed % 2\*\*32"),
            ({"output_dir": "out"}, "output_dir is 'out'; it must be run.directory"),
            ({"label_smoothing_factor": 0.1}, "label_smoothing_factor is 0.1; it must be 0"),
        ],
    )
    def test_arguments_that_a_study_cannot_use_are_refused(
        self,
        arguments: dict[str, Any],
        message: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        run = make_run(tmp_path, Reports())
        with pytest.raises(ValueError, match=message):
            self.train(run, self.trainer(run, "images", **arguments))

    def test_a_trainer_that_has_trained_before_is_refused(self, tmp_path: Path) -> None:
        run = make_run(tmp_path, Reports())
        trainer = self.trainer(run, "images", save_strategy="epoch")
        trainer.train()
        with pytest.raises(ValueError, match=r"has trained before; call huggingface\.train"):
            self.train(run, trainer)
        whole, after = Reports(), Reports()
        (tmp_path / "whole").mkdir()
        run = make_run(tmp_path / "whole", whole)
        self.train(run, self.trainer(run, "images", save_strategy="epoch"))
        run = make_run(tmp_path, after)  # its folder has the checkpoints of another trainer
        self.train(run, self.trainer(run, "images", save_strategy="epoch"))
        assert after.progress == whole.progress
        assert after.nll() == whole.nll()

    def test_training_for_no_step_is_refused(self, tmp_path: Path) -> None:
        run = make_run(tmp_path, Reports())
        with pytest.raises(ValueError, match=r"has trained for 0 steps; set .*num_train_epochs"):
            self.train(run, self.trainer(run, "images", num_train_epochs=0))


class TestLightning:
    """sweeper.training.adapters.lightning"""

    pl: Any

    @pytest.fixture(autouse=True)
    def installed(self) -> None:
        """Skip the test if Lightning is not installed."""
        self.pl = pytest.importorskip("lightning.pytorch", reason="not installed")

    def model(self, lr: float = 0.1, positions: int = 0, weight: Tensor | None = None) -> Any:
        pl = self.pl

        class Model(pl.LightningModule):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                super().__init__()
                torch.manual_seed(0)
                self.network = nn.Conv1d(2, 3, 1) if positions else nn.Linear(2, 3)
                self.criterion = nn.CrossEntropyLoss(weight=weight)

            def forward(self, inputs: Tensor) -> Tensor:
                logits: Tensor = self.network(inputs)
                return logits

            def training_step(self, batch: list[Tensor]) -> Any:
                loss = self.criterion(self(batch[0]), batch[1])
                self.log("train_loss", loss, on_step=True, on_epoch=False)
                return loss

            def validation_step(self, batch: list[Tensor]) -> None:
                self.log("val_loss", self.criterion(self(batch[0]), batch[1]))

            test_step = validation_step

            def predict_step(self, batch: list[Tensor]) -> Tensor:
                return self.forward(batch[0])

            def configure_optimizers(self) -> Any:
                return torch.optim.SGD(self.parameters(), lr)

        return Model()

    def data(self, number: int, positions: int = 0, ignored: bool = False) -> Any:
        generator = torch.Generator().manual_seed(number)
        shape = (number, 2, positions) if positions else (number, 2)
        inputs = torch.randn(*shape, generator=generator)
        labels = (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0).long()
        if positions:
            labels[::2, 0] = -100
        if ignored:
            labels[1::3] = -100
        return TensorDataset(inputs, labels)

    def trainer(self, run: TrainingRun, **arguments: Any) -> Any:
        defaults = {
            "default_root_dir": run.directory,
            "max_epochs": 3,
            "accelerator": "cpu",
            "devices": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        }
        return self.pl.Trainer(**{**defaults, **arguments})

    def fit(
        self,
        run: TrainingRun,
        model: Any,
        positions: int = 0,
        batch: int = 4,
        ignored: bool = False,
        valid: Callable[[Any], Any] = lambda loader: loader,
        **trainer: Any,
    ) -> Any:
        from sweeper.training.adapters import lightning

        torch.manual_seed(run.seed)
        started = self.trainer(run, **trainer)
        lightning.fit(
            run,
            started,
            model,
            DataLoader(self.data(8, positions), batch, shuffle=True),
            valid(DataLoader(self.data(7, positions, ignored), 2)),
            DataLoader(self.data(5, positions, ignored), 2),
        )
        return started

    def test_a_list_of_one_loader_is_one_loader(self, tmp_path: Path) -> None:
        whole, listed = Reports(), Reports()
        for name, reports in (("whole", whole), ("listed", listed)):
            (tmp_path / name).mkdir()
            run = make_run(tmp_path / name, reports)
            self.fit(run, self.model(), valid=lambda it: [it] if name == "listed" else it)  # noqa: B023
        assert [listed.nll(i) for i in range(3)] == [whole.nll(i) for i in range(3)]
        model = self.model()
        model.validation_step = lambda batch, dataloader_idx=0: None
        with pytest.raises(ValueError, match="dataloaders of an evaluation is 2; it must be 1"):
            self.fit(make_run(tmp_path, Reports()), model, valid=lambda loader: [loader] * 2)

    def test_a_run_that_stops_early_ends_with_a_validation(self, tmp_path: Path) -> None:
        stopping = import_module("lightning.pytorch.callbacks").EarlyStopping
        never_better = stopping("val_loss", min_delta=1000.0, patience=1)
        reports, model = Reports(), self.model()
        trainer = self.fit(make_run(tmp_path, reports), model, callbacks=[never_better])
        assert trainer.current_epoch == 2
        assert reports.progress == pytest.approx([1 / 3, 2 / 3, 1])
        predicted = torch.cat(trainer.predict(model, DataLoader(self.data(7), 2)))
        expected = oracle(predicted, self.data(7).tensors[1])
        assert reports.nll() == pytest.approx(expected, abs=1e-6)
        assert reports.evaluations[-1].splits.keys() == {"test"}

    @pytest.mark.parametrize("rank", [0, 1])
    def test_a_killed_rank_ends_the_run(self, rank: int, tmp_path: Path, one_thread: None) -> None:
        class Dies(self.pl.Callback):  # type: ignore[misc, name-defined]
            def on_train_epoch_start(self, trainer: Any, _: Any) -> None:
                if trainer.current_epoch == 1 and trainer.global_rank == rank:
                    os.kill(os.getpid(), signal.SIGKILL)

        reports, before = Reports(), set(psutil.Process().children())
        ranks: dict[str, Any] = {"strategy": "ddp_fork", "devices": 2, "callbacks": [Dies()]}
        with pytest.raises(Exception, match="SIGKILL"):
            self.fit(make_run(tmp_path, reports), self.model(), **ranks)
        assert reports.progress == pytest.approx([1 / 3])
        assert set(psutil.Process().children()) <= before
        rest = Reports()  # resumes from the checkpoint of Lightning, on two ranks
        ranks["callbacks"] = []
        self.fit(make_run(tmp_path, rest), self.model(), **ranks)
        assert rest.progress == pytest.approx([2 / 3, 1])

    def test_forked_ranks_leave_no_descriptor(self, tmp_path: Path) -> None:
        from sweeper.training.adapters.ranks import reports_of_ranks

        run = make_run(tmp_path, Reports())
        trainer = self.trainer(run, strategy="ddp_fork", devices=2)
        before = psutil.Process().num_fds()
        with reports_of_ranks(run, trainer):
            assert psutil.Process().num_fds() == before + 2
        assert psutil.Process().num_fds() == before

    @pytest.mark.parametrize("positions", [0, 4])
    def test_reported_nll_is_that_of_the_predictions(self, positions: int, tmp_path: Path) -> None:
        reports, model = Reports(), self.model(positions=positions)
        trainer = self.fit(make_run(tmp_path, reports), model, positions)
        assert reports.progress == pytest.approx([1 / 3, 2 / 3, 1])  # and none of the sanity check
        last = reports.evaluations[-1]
        reported = {7: Outputs(last.logits, last.labels, last.groups)}
        reported[5] = Outputs(*last.splits["test"]())
        for number, (logits, labels, groups) in reported.items():
            data = self.data(number, positions)
            predicted = torch.cat(trainer.predict(model, DataLoader(data, 2))).movedim(1, -1)
            truth = data.tensors[1]
            nll = oracle(predicted[truth != -100], truth[truth != -100])
            assert score(logits, labels).nll == pytest.approx(nll, abs=1e-6)
            assert (groups is None) == (positions == 0)
        if not positions:
            expected = pytest.approx(reports.nll(), abs=1e-5)
            assert last.extra["val_loss"] == expected  # validation is not smoothed

    def test_training_loss_is_smoothed(self, tmp_path: Path) -> None:
        reports, weight = Reports(), torch.tensor([1.0, 2.0, 0.5])
        models = [self.model(lr=0.0, positions=4), self.model(lr=0.0, weight=weight)]
        for folder, model, positions in zip(("a", "b"), models, (4, 0), strict=True):
            (tmp_path / folder).mkdir()
            run = make_run(tmp_path / folder, reports)
            self.fit(run, model, positions, batch=8, log_every_n_steps=1)
        inputs, labels = self.data(8, 4).tensors
        logits = models[0](inputs).detach().movedim(1, -1)[labels != -100]
        targets = labels[labels != -100]
        epsilons = [EPSILON, EPSILON * 2 / 3, EPSILON / 3]
        expected = [smoothed(logits, targets, epsilon) / len(targets) for epsilon in epsilons]
        logged = [evaluation.extra["train_loss"] for evaluation in reports.evaluations]
        assert logged[:3] == pytest.approx(expected, abs=1e-5)
        inputs, labels = self.data(8).tensors
        loss = SmoothingLoss(Smoothing(EPSILON), weight=weight)
        weighted = loss(models[1](inputs), labels).item()
        assert logged[3] == pytest.approx(weighted, abs=1e-5)

    def test_pruned_trial_ends_the_trainer(self, tmp_path: Path) -> None:
        class Ends(self.pl.Callback):  # type: ignore[misc, name-defined]
            steps = 0

            def on_fit_end(self, trainer: Any, _: Any) -> None:
                self.steps = trainer.global_step

        ends = Ends()
        run = make_run(tmp_path, Reports(prune_at=2))
        with pytest.raises(TrialPruned):
            self.fit(run, self.model(), callbacks=[ends], min_epochs=3)
        assert ends.steps == 4

    def test_resumes_from_the_checkpoint(self, tmp_path: Path) -> None:
        class Interrupts(self.pl.Callback):  # type: ignore[misc, name-defined]
            def on_train_epoch_start(self, trainer: Any, _: Any) -> None:
                if trainer.current_epoch == 2:
                    raise Interrupted

        whole, rest, again = Reports(), Reports(), Reports()
        folders = [tmp_path / "whole", tmp_path / "interrupted"]
        for folder in folders:
            folder.mkdir()
        self.fit(make_run(folders[0], whole), self.model())
        with pytest.raises(Interrupted):
            self.fit(make_run(folders[1], Reports()), self.model(), callbacks=[Interrupts()])
        self.fit(make_run(folders[1], rest), self.model())
        assert rest.progress == whole.progress[2:]
        assert rest.nll() == whole.nll()
        self.fit(make_run(folders[1], again), self.model())  # nothing is left to train
        assert again.progress == [1.0]
        assert again.nll() == whole.nll()

    def test_trainers_and_models_that_a_study_cannot_use_are_refused(self, tmp_path: Path) -> None:
        run, model = make_run(tmp_path, Reports()), self.model()
        with pytest.raises(ValueError, match=r"default_root_dir is .*; it must be run.directory"):
            self.fit(run, model, default_root_dir=tmp_path / "other")
        model.criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
        with pytest.raises(ValueError, match=r"0 attributes of type nn.CrossEntropyLoss without"):
            self.fit(run, model)

    def test_a_trainer_that_has_trained_before_is_refused(self, tmp_path: Path) -> None:
        from sweeper.training.adapters import lightning

        run, loader = make_run(tmp_path, Reports()), DataLoader(self.data(8, 0), 4)
        trainer = self.trainer(run)
        trainer.fit(self.model(), loader, loader)
        with pytest.raises(ValueError, match=r"has trained before; call lightning\.fit"):
            lightning.fit(run, trainer, self.model(), loader, loader)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"max_epochs": 0}, "Trainer.max_epochs is 0, so nothing is trained"),
            ({"max_steps": 0}, "Trainer.max_steps is 0, so nothing is trained"),
            ({"limit_train_batches": 0}, "Trainer.limit_train_batches is 0, so nothing is trained"),
            ({"max_epochs": -1, "max_time": "00:00:01:00"}, "set max_epochs of the Trainer, or "),
        ],
    )
    def test_a_length_that_a_study_cannot_use_is_refused(
        self, settings: dict[str, Any], message: str, tmp_path: Path
    ) -> None:
        with pytest.raises(ValueError, match=message):
            self.fit(make_run(tmp_path, Reports()), self.model(), **settings)

    @pytest.mark.parametrize("prune_at", [0, 2])
    @pytest.mark.parametrize(("positions", "ignored"), [(0, False), (4, False), (0, True)])
    def test_two_ranks_report_each_example_once(
        self, prune_at: int, positions: int, ignored: bool, tmp_path: Path, one_thread: None
    ) -> None:
        reports, model = Reports(prune_at), self.model(positions=positions)
        run = make_run(tmp_path, reports)
        ranks: dict[str, Any] = {"strategy": "ddp_fork", "devices": 2, "ignored": ignored}
        if prune_at:
            with pytest.raises(TrialPruned):
                self.fit(run, model, positions, **ranks)
            assert reports.progress == pytest.approx([1 / 3, 2 / 3])
            truth = self.data(7, positions, ignored).tensors[1]
            for evaluation in reports.evaluations:  # gathered from both ranks
                assert torch.equal(evaluation.labels, truth[truth != -100])
            return
        trainer = self.fit(run, model, positions, **ranks)
        assert reports.progress == pytest.approx([1 / 3, 2 / 3, 1])
        last = reports.evaluations[-1]
        for outputs, number in ((last, 7), (Outputs(*last.splits["test"]()), 5)):
            data = self.data(number, positions, ignored)
            truth = data.tensors[1]
            model.eval()
            predicted = model(data.tensors[0]).detach().movedim(1, -1)[truth != -100]
            assert torch.equal(outputs.labels, truth[truth != -100])
            nll = score(outputs.logits, outputs.labels).nll
            assert nll == pytest.approx(oracle(predicted, truth[truth != -100]), abs=1e-6)
        assert not trainer.strategy.launcher.procs or not any(
            process.is_alive() for process in trainer.strategy.launcher.procs
        )


STUDIES = Path(__file__).parent.parent / "studies" / "frameworks"
STUDY = """
[study]
name = "framework"
[task]
{task}
[space]
epsilon = {{ low = 0.0, high = 0.9 }}
[[first]]
epsilon = 0.01
schedule = "fixed"
[[first]]
epsilon = 0.9
schedule = "fixed"
[budget]
trials = 3
[sampler]
name = "random"
[pruner]
name = "percentile"
percentile = 1.0
startup = 2
warmup = 0.0
[confirm]
shortlist = 1
replicates = 2
"""
Launch = Callable[..., Study]


@pytest.fixture
def launch(tmp_path: Path, storage: str) -> Iterator[Launch]:
    """Return a function that runs a study in its own processes, beside the example studies."""
    launched = list[Study]()

    def launch(task: str, confirm: bool = True) -> Study:
        for path in STUDIES.glob("*.py"):
            shutil.copy(path, tmp_path)
        file = tmp_path / "framework.toml"
        file.write_text(STUDY.format(task=task))
        study = sweeper.launch(
            file, workers=1, storage=storage, results=tmp_path / "results", confirm=confirm
        )
        launched.append(study)
        return study

    yield launch
    for study in launched:
        study.close()


@pytest.mark.chaos
@pytest.mark.parametrize("framework", ["huggingface", "lightning"])
def test_example_study_survives_a_kill_and_is_replayed(
    framework: str, launch: Launch, storage: str, tmp_path: Path
) -> None:
    pytest.importorskip(
        {"huggingface": "transformers"}.get(framework, framework),
        reason=f"{framework} is not installed",
    )
    copy_task(tmp_path, "killed_frameworks.py")
    options = "{ mark = 'mark', epochs = 5, examples = 400 }"
    study = launch(f"use = 'killed_frameworks.py:{framework}'\noptions = {options}")
    frame, epochs = study.frame(), study.epochs()
    assert (tmp_path / "mark").exists()
    assert study.progress().retried == 1
    assert frame["state"].tolist() == ["complete", "complete", "pruned"]
    assert epochs[epochs["number"] == 0]["epoch"].tolist() == [1, 2, 3, 4, 5]
    assert epochs["progress"].tolist() == pytest.approx((epochs["epoch"] / 5).tolist())
    assert study.verdict() is not None  # of runs with a test split
    assert sweeper.replay("framework", 0, storage).same


def test_lightning_trains_under_torchrun(launch: Launch, tmp_path: Path) -> None:
    pytest.importorskip("lightning", reason="lightning is not installed")
    copy_task(tmp_path, "script_lightning.py")
    torchrun = ["${interpreter}", "-m", "torch.distributed.run", "--standalone"]
    command = [*torchrun, "--nproc-per-node", "2", "${program}"]
    task = f'program = "script_lightning.py"\nloss = "sweeper"\ncommand = {command!r}'
    study = launch(task, confirm=False)
    frame = study.frame()
    assert frame["state"].tolist() == ["complete", "complete", "pruned"], study.log(0)
    for number, trained in ((0, 3), (2, frame["epochs"][2])):
        for rank in (0, 1):
            assert f"rank {rank} trained {trained} epochs" in study.log(number)


def test_huggingface_trains_under_torchrun(launch: Launch, tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    copy_task(tmp_path, "script_huggingface.py")
    torchrun = ["${interpreter}", "-m", "torch.distributed.run", "--standalone"]
    command = [*torchrun, "--nproc-per-node", "2", "${program}"]
    task = f'program = "script_huggingface.py"\nloss = "sweeper"\ncommand = {command!r}'
    study = launch(task)
    frame = study.frame()
    assert set(frame["state"]) <= {"complete", "pruned"}, study.log(0)
    assert study.verdict() is not None  # of runs with a test split
    for number in (0, 2):
        assert all(f"rank {each} ended" in study.log(number) for each in (0, 1))


class TestTimm:
    """Models of timm in a task, which needs no adapter."""

    @pytest.fixture(autouse=True)
    def torchvision(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """Provide what timm imports from torchvision, here and in the processes of the study."""
        copy_task(tmp_path, "torchvision.py")
        monkeypatch.syspath_prepend(tmp_path)
        pytest.importorskip("timm", reason="timm is not installed")
        yield
        for name in list(sys.modules):
            if name.partition(".")[0] in ("timm", "torchvision", "digits_timm"):
                del sys.modules[name]

    def test_stored_nll_is_that_of_the_exported_model(self, launch: Launch, tmp_path: Path) -> None:
        study = launch(
            "use = 'digits_timm.py:task'\noptions = { epochs = 2, examples = 120 }", confirm=False
        )
        assert set(study.frame()["state"]) <= {"complete", "pruned"}
        best = study.best
        assert best is not None
        exported = tmp_path / "best.pt"
        results = ("--results", tmp_path / "results")
        arguments = ("framework", "--storage", study.storage, *results, "--model", exported)
        done = run_command("export", *arguments)
        assert done.status == 0, done.err
        task = import_module("digits_timm").task(epochs=2, examples=120)
        model = task.model(task.hparams).eval()
        model.load_state_dict(torch.load(exported, weights_only=True))
        inputs, labels = task.data(0).valid
        with torch.no_grad():
            nll = oracle(model(inputs), labels)
        assert best["nll"] == pytest.approx(nll, abs=1e-6)

    def test_loss_of_a_run_smooths_mixed_labels_as_timm_does(self, tmp_path: Path) -> None:
        data, losses = import_module("timm.data"), import_module("timm.loss")
        inputs, labels = torch.randn(8, 1, 4, 4), torch.arange(8) % 4
        logits, targets = torch.randn(8, 4), {}
        for smoothing in (0.0, 0.1):
            np.random.seed(0)
            mixup = data.Mixup(mixup_alpha=1.0, label_smoothing=smoothing, num_classes=4)
            _, targets[smoothing] = mixup(inputs.clone(), labels)
        run = TrainingRun(
            Smoothing(0.1, convention="uniform"), 0, 0, directory=tmp_path, reporter=Reports()
        )
        expected = losses.SoftTargetCrossEntropy()(logits, targets[0.1])
        assert run.loss()(logits, targets[0.0]).item() == pytest.approx(expected.item(), abs=1e-6)
