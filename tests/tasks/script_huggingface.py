"""The Hugging Face example as a script, which torchrun starts on two ranks."""

import os

from digits_huggingface import train  # type: ignore[import-not-found]

import sweeper

if __name__ == "__main__":
    try:
        train(sweeper.current_run(), epochs=3, examples=121)
    finally:
        print(f"rank {os.environ['RANK']} ended", flush=True)
