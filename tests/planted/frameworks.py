"""Training with Hugging Face, Lightning and in the style of timm, with one planted fault each."""

from typing import Any

import lightning.pytorch as pl
import torch
from planted_data import CLASSES, EPOCHS, batches, network, split, step
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from sweeper import TrainingRun
from sweeper.training.adapters import huggingface, lightning

# ---- Hugging Face ------------------------------------------------------------------------

BERT = BertConfig(
    vocab_size=30,
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=16,
    max_position_embeddings=12,
    num_labels=3,
)


def texts(seed: int, count: int = 384) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return sequences of 8 tokens, whose class is that of most tokens modulo 3."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(30, (count, 8), generator=generator)
    labels = (tokens % 3).mode(1).values
    rows = [{"input_ids": t, "labels": int(y)} for t, y in zip(tokens, labels, strict=True)]
    return rows[: 2 * count // 3], rows[2 * count // 3 :]


def arguments(run: TrainingRun, **given: Any) -> TrainingArguments:
    return TrainingArguments(
        output_dir=run.directory,
        seed=run.seed,
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=32,
        per_device_eval_batch_size=128,
        learning_rate=5e-3,
        eval_strategy="epoch",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        **given,
    )


class Reporting(TrainerCallback):
    """Reports each evaluation, as somebody would without the adapter."""

    def __init__(self, run: TrainingRun, valid: list[dict[str, Any]]) -> None:
        self.run, self.valid = run, valid

    def on_evaluate(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        tokens = torch.stack([row["input_ids"] for row in self.valid])
        labels = torch.tensor([row["labels"] for row in self.valid])
        with torch.no_grad():
            logits = given["model"].eval()(input_ids=tokens).logits
        extra = {"eval_loss": given["metrics"]["eval_loss"]}
        self.run.report(logits, labels, progress=state.epoch / EPOCHS, extra=extra)


def bert(run: TrainingRun) -> BertForSequenceClassification:
    torch.manual_seed(run.seed)
    return BertForSequenceClassification(BERT)


def by_trainer(run: TrainingRun, trainer: type[Trainer] = Trainer, **given: Any) -> None:
    train, valid = texts(run.data_seed)
    trainer(
        bert(run),
        arguments(run, **given),
        train_dataset=train,
        eval_dataset=valid,
        callbacks=[Reporting(run, valid)],
    ).train()


def hf_model_loss(run: TrainingRun) -> None:
    """The model computes its loss, because it gets the labels."""
    by_trainer(run)


def hf_factor_left(run: TrainingRun) -> None:
    by_trainer(run, label_smoothing_factor=0.1)


def hf_factor_beside_the_adapter(run: TrainingRun) -> None:
    train, valid = texts(run.data_seed)
    given = arguments(run, label_smoothing_factor=0.1)
    huggingface.train(run, Trainer(bert(run), given, train_dataset=train, eval_dataset=valid))


def hf_smoothed_eval_loss(run: TrainingRun) -> None:
    by_trainer(run, label_smoothing_factor=run.smoothing.label_smoothing(3))


def clean_hf(run: TrainingRun) -> None:
    train, valid = texts(run.data_seed)
    trainer = Trainer(bert(run), arguments(run), train_dataset=train, eval_dataset=valid)
    huggingface.train(run, trainer)


# ---- Lightning ---------------------------------------------------------------------------


class Module(pl.LightningModule):
    def __init__(self, run: TrainingRun, train_loss: nn.Module, valid_loss: nn.Module) -> None:
        super().__init__()
        self.run, self.network = run, network(run.seed)
        self.train_loss, self.valid_loss = train_loss, valid_loss

    def training_step(self, batch: list[Tensor]) -> Tensor:
        loss: Tensor = self.train_loss(self.network(batch[0]), batch[1])
        return loss

    def validation_step(self, batch: list[Tensor]) -> None:
        logits = self.network(batch[0])
        loss = self.valid_loss(logits, batch[1])
        if not self.trainer.sanity_checking:
            progress = (self.current_epoch + 1) / EPOCHS
            extra = {"val_loss": loss}
            self.run.report(logits, batch[1], progress=progress, extra=extra)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 0.01)


def trainer_of(run: TrainingRun) -> pl.Trainer:
    return pl.Trainer(
        default_root_dir=run.directory,
        max_epochs=EPOCHS,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def loaders(run: TrainingRun) -> tuple[DataLoader[Any], DataLoader[Any]]:
    x, y, valid_x, valid_y = split(run.data_seed)
    return (
        DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True),
        DataLoader(TensorDataset(valid_x, valid_y), batch_size=512),
    )


def lightning_one_criterion(run: TrainingRun) -> None:
    """Training and validation share the smoothed criterion."""
    loss = run.loss()
    trainer_of(run).fit(Module(run, loss, loss), *loaders(run))


def lightning_ignored(run: TrainingRun) -> None:
    trainer_of(run).fit(Module(run, nn.CrossEntropyLoss(), nn.CrossEntropyLoss()), *loaders(run))


class Adapted(pl.LightningModule):
    def __init__(self, run: TrainingRun) -> None:
        super().__init__()
        self.network, self.loss = network(run.seed), nn.CrossEntropyLoss()

    def training_step(self, batch: list[Tensor]) -> Tensor:
        loss: Tensor = self.loss(self.network(batch[0]), batch[1])
        return loss

    def validation_step(self, batch: list[Tensor]) -> None:
        self.log("val_loss", self.loss(self.network(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 0.01)


def clean_lightning(run: TrainingRun) -> None:
    pl.seed_everything(run.seed, verbose=False)
    lightning.fit(run, trainer_of(run), Adapted(run), *loaders(run))


# ---- in the style of timm ----------------------------------------------------------------


class Mixup:
    """As timm.data.Mixup, which smooths by default."""

    def __init__(self, label_smoothing: float = 0.1) -> None:
        self.off = label_smoothing / CLASSES
        self.on = 1.0 - label_smoothing + self.off
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        share = float(torch.rand((), generator=self.generator))
        targets = torch.full((len(y), CLASSES), self.off).scatter_(1, y.unsqueeze(1), self.on)
        return share * x + (1 - share) * x.flip(0), share * targets + (1 - share) * targets.flip(0)


class SoftTargetCrossEntropy(nn.Module):
    """As timm.loss.SoftTargetCrossEntropy."""

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        return torch.sum(-target * F.log_softmax(x, dim=-1), dim=-1).mean()


class LabelSmoothingCrossEntropy(nn.Module):
    """As timm.loss.LabelSmoothingCrossEntropy."""

    def __init__(self, smoothing: float = 0.1) -> None:
        super().__init__()
        self.smoothing = smoothing

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        logprobs = F.log_softmax(x, dim=-1)
        nll_loss = -logprobs.gather(dim=-1, index=target.unsqueeze(1)).squeeze(1)
        loss = (1 - self.smoothing) * nll_loss - self.smoothing * logprobs.mean(dim=-1)
        return loss.mean()


def by_timm(run: TrainingRun, criterion: nn.Module, mixup: Mixup | None = None) -> None:
    x, y, valid_x, valid_y = split(run.data_seed)
    model = network(run.seed)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for epoch in range(EPOCHS):
        model.train()
        for inputs, targets in batches(x, y, epoch):
            if mixup is not None:
                inputs, targets = mixup(inputs, targets)
            step(criterion(model(inputs), targets), optimizer)
        model.eval()
        with torch.no_grad():
            logits = model(valid_x)
        loss = F.cross_entropy(logits, valid_y)
        run.report(logits, valid_y, progress=(epoch + 1) / EPOCHS, extra={"eval_loss": loss})


def timm_mixup_default(run: TrainingRun) -> None:
    """The smoothing of the trial goes to a criterion that mixup replaces."""
    by_timm(run, SoftTargetCrossEntropy(), Mixup())


def timm_smoothing_default(run: TrainingRun) -> None:
    by_timm(run, LabelSmoothingCrossEntropy())


def clean_timm_mixup(run: TrainingRun) -> None:
    smoothing = run.smoothing.label_smoothing(CLASSES)
    by_timm(run, SoftTargetCrossEntropy(), Mixup(smoothing))


def clean_timm(run: TrainingRun) -> None:
    by_timm(run, LabelSmoothingCrossEntropy(run.smoothing.label_smoothing(CLASSES)))
