"""Lightning: a small network on handwritten digits."""

import lightning.pytorch as pl
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from sweeper import TrainingRun
from sweeper.training.adapters import lightning

PIXELS, LABELS = load_digits(return_X_y=True)
IMAGES = torch.tensor(PIXELS / 16.0 - 0.5, dtype=torch.float32)


class Classifier(pl.LightningModule):
    def __init__(self, lr: float) -> None:
        super().__init__()
        self.lr = lr
        self.network = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
        self.loss = nn.CrossEntropyLoss()  # the adapter smooths it in training

    def training_step(self, batch: list[Tensor]) -> Tensor:
        loss: Tensor = self.loss(self.network(batch[0]), batch[1])
        return loss

    def validation_step(self, batch: list[Tensor]) -> None:
        self.log("val_loss", self.loss(self.network(batch[0]), batch[1]))

    def test_step(self, batch: list[Tensor]) -> None:
        self.log("test_loss", self.loss(self.network(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), self.lr)


def train(run: TrainingRun, epochs: int = 30, examples: int = len(LABELS)) -> None:
    """Train once. The adapter smooths the training loss, reports each epoch and resumes."""
    pl.seed_everything(run.seed % 2**32, verbose=False)  # the initial weights and batch order
    trainer = pl.Trainer(
        default_root_dir=run.directory,
        max_epochs=epochs,
        accelerator=run.device.type,
        devices=1,
        logger=False,
        enable_checkpointing=False,  # the adapter saves a checkpoint after each epoch
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    train_rows, valid_rows, test_rows = split(run.data_seed % 2**32, examples)
    model = Classifier(run.hparams.get("lr", 3e-3))
    lightning.fit(
        run,
        trainer,
        model,
        DataLoader(train_rows, batch_size=32, shuffle=True),
        DataLoader(valid_rows, batch_size=512),
        DataLoader(test_rows, batch_size=512),
    )


def split(seed: int, examples: int) -> list[TensorDataset]:
    """Return the training, validation and test examples."""
    rows, rest = train_test_split(np.arange(examples), test_size=0.5, random_state=seed)
    valid, test = train_test_split(rest, test_size=0.5, random_state=seed)
    labels = torch.tensor(LABELS)
    return [TensorDataset(IMAGES[part], labels[part]) for part in (rows, valid, test)]
