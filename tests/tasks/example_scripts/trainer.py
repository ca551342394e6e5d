"""Hugging Face Trainer as a script; `train` is the training function of studies/frameworks."""

from digits_huggingface import train  # type: ignore[import-not-found]

import sweeper

train(sweeper.current_run(), epochs=2, examples=200)
