"""A plain loop that writes its logits to files."""

import argparse
import os

import numpy as np
from softmax import data, train  # type: ignore[import-not-found]

parser = argparse.ArgumentParser()
parser.add_argument("--epsilon", type=float, default=0.0)
parser.add_argument("--epochs", type=int, default=4)
args = parser.parse_args()
folder = os.environ["SWEEPER_DIR"]
for epoch, weights in enumerate(train(args.epsilon, 0.5, args.epochs, 0), 1):
    for split in os.environ["SWEEPER_SPLITS"].split(","):
        inputs, labels = data(split)
        progress = epoch / args.epochs  # for sweeper
        np.savez(
            f"{folder}/part", logits=inputs @ weights, labels=labels, progress=progress
        )  # sweeper
        os.replace(f"{folder}/part.npz", f"{folder}/{split}-{epoch:04d}.npz")  # for sweeper
