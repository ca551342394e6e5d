"""Hugging Face Trainer: a small vision transformer (ViT) on handwritten digits."""

from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from transformers import (
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
    set_seed,
)

from sweeper import TrainingRun
from sweeper.training.adapters import huggingface

PIXELS, LABELS = load_digits(return_X_y=True)
IMAGES = (PIXELS / 16.0 - 0.5).reshape(-1, 1, 8, 8).astype(np.float32)
MODEL = ViTConfig(
    image_size=8,
    patch_size=4,
    num_channels=1,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_labels=10,
)


def train(run: TrainingRun, epochs: int = 20, examples: int = len(LABELS)) -> None:
    """Train once. The adapter smooths the training loss, reports each epoch and resumes."""
    seed = run.seed % 2**32  # the Trainer takes seeds below 2**32
    set_seed(seed)  # the initial weights
    model = ViTForImageClassification(MODEL)
    train_rows, valid_rows, test_rows = split(run.data_seed % 2**32, examples)
    arguments = TrainingArguments(
        output_dir=run.directory,
        seed=seed,
        num_train_epochs=epochs,
        per_device_train_batch_size=32,
        per_device_eval_batch_size=512,
        learning_rate=run.hparams.get("lr", 3e-3),
        eval_strategy="epoch",  # each evaluation is reported
        save_strategy="epoch",  # an interrupted trial resumes from the last checkpoint
        save_total_limit=1,
        report_to="none",
        disable_tqdm=True,
        use_cpu=run.device.type == "cpu",
    )
    trainer = Trainer(model, arguments, train_dataset=train_rows, eval_dataset=valid_rows)
    huggingface.train(run, trainer, test_dataset=test_rows)


def split(seed: int, examples: int) -> list[list[dict[str, Any]]]:
    """Return the training, validation and test examples."""
    rows, rest = train_test_split(np.arange(examples), test_size=0.5, random_state=seed)
    valid, test = train_test_split(rest, test_size=0.5, random_state=seed)
    return [
        [{"pixel_values": IMAGES[row], "labels": LABELS[row]} for row in part]
        for part in (rows, valid, test)
    ]
