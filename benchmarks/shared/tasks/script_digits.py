"""A training script for `benchmarks.scripts`: an MLP on digits; it does not import sweeper."""

import argparse
import os

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--epsilon", type=float, default=float(os.environ["SWEEPER_EPSILON"]))
parser.add_argument("--epochs", type=int, default=30)
args = parser.parse_args()

torch.manual_seed(int(os.environ["SWEEPER_SEED"]))
images, digits = load_digits(return_X_y=True)
inputs, labels = torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(digits)
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
loss = nn.CrossEntropyLoss(label_smoothing=args.epsilon * 10 / 9)
for epoch in range(1, args.epochs + 1):
    for rows in torch.split(torch.randperm(1000), 50):
        optimizer.zero_grad()
        loss(model(inputs[rows]), labels[rows]).backward()
        optimizer.step()
    with torch.no_grad():
        logits = model(inputs[1000:1400]).numpy()
    folder = os.environ["SWEEPER_DIR"]
    progress = epoch / args.epochs
    np.savez(f"{folder}/part.npz", logits=logits, labels=digits[1000:1400], progress=progress)
    os.replace(f"{folder}/part.npz", f"{folder}/valid-{epoch:04d}.npz")
