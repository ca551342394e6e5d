"""A loop whose outputs are too large to store: it writes the NLL of each example."""

import argparse
import os

import numpy as np
from softmax import data, train  # type: ignore[import-not-found]

parser = argparse.ArgumentParser()
parser.add_argument("--epsilon", type=float, default=0.0)
args = parser.parse_args()
*_, weights = train(args.epsilon, 0.5, 4, 0)
folder = os.environ["SWEEPER_DIR"]
for split in os.environ["SWEEPER_SPLITS"].split(","):
    inputs, labels = data(split)
    logits = inputs @ weights
    nll = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(labels)), labels]  # for sweeper
    np.savez(f"{folder}/part", nll=nll, correct=logits.argmax(1) == labels)  # for sweeper
    os.replace(f"{folder}/part.npz", f"{folder}/{split}-0001.npz")  # for sweeper
