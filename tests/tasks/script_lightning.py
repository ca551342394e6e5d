"""The Lightning example as a script, which torchrun starts on two ranks."""

import lightning.pytorch as pl
from digits_lightning import Classifier, split  # type: ignore[import-not-found]
from torch.utils.data import DataLoader

import sweeper
from sweeper.training.adapters import lightning


def train(run: sweeper.TrainingRun) -> None:
    """Train on two ranks; 31 validation examples cannot be divided equally."""
    pl.seed_everything(run.seed, verbose=False)
    trainer = pl.Trainer(
        default_root_dir=run.directory,
        max_epochs=3,
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loaders = [DataLoader(rows, batch_size=16) for rows in split(run.data_seed, 121)]
    try:
        lightning.fit(run, trainer, Classifier(lr=3e-3), *loaders)
    finally:
        print(f"rank {trainer.global_rank} trained {trainer.current_epoch} epochs", flush=True)


if __name__ == "__main__":
    train(sweeper.current_run())
