"""A loop that prints its NLL as JSON lines; `evidence = "self-reported"` allows pruning."""

import argparse
import json

import numpy as np
from softmax import data, train  # type: ignore[import-not-found]

parser = argparse.ArgumentParser()
parser.add_argument("--epsilon", type=float, default=0.0)
args = parser.parse_args()
inputs, labels = data("valid")
for epoch, weights in enumerate(train(args.epsilon, 0.5, 4, 0), 1):
    logits = inputs @ weights
    nll = np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(len(labels)), labels])
    print(json.dumps({"nll": float(nll), "progress": epoch / 4}))  # for sweeper
