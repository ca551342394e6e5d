"""A script with one planted fault, which the option --fault names."""

import argparse
import os
from pathlib import Path

import numpy as np
import torch
from planted_data import CLASSES, EPOCHS, batches, network, split, step
from torch.nn import functional as F

parser = argparse.ArgumentParser()
parser.add_argument("--smoothing", type=float, default=0.1)
parser.add_argument("--fault", default="")
arguments = parser.parse_args()
fault = arguments.fault

x, y, valid_x, valid_y = split(int(os.environ["SWEEPER_DATA_SEED"]))
noisy = fault in ("noise", "noise-ignored")
model = network(int.from_bytes(os.urandom(3)) if noisy else 0)
optimizer = torch.optim.Adam(model.parameters(), 0.05)
smoothing = 0.0 if fault in ("ignored", "noise-ignored") else arguments.smoothing
for epoch in range(EPOCHS):
    for inputs, labels in batches(x, y, epoch):
        step(F.cross_entropy(model(inputs), labels, label_smoothing=smoothing), optimizer)
    rows = torch.arange(len(valid_y))
    if fault == "shuffled":
        rows = torch.from_numpy(np.random.default_rng().permutation(len(valid_y)))
    with torch.no_grad():
        logits = model(valid_x[rows])
    if fault == "probabilities":
        logits = logits.softmax(1)
    path = Path(os.environ["SWEEPER_DIR"], f"valid-{epoch:04}.npz")
    np.savez(
        path.with_suffix(".tmp.npz"),
        logits=logits.numpy(),
        labels=valid_y[rows].numpy(),
        progress=(epoch + 1) / EPOCHS,
    )
    path.with_suffix(".tmp.npz").rename(path)
assert logits.shape[1] == CLASSES
