"""In the style of timm's train.py: `--smoothing`, a loss for each phase, logits in files."""

import argparse
import os

import numpy as np
import torch
from softmax import CLASSES, data  # type: ignore[import-not-found]
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--smoothing", type=float, default=0.1)
parser.add_argument("--epochs", type=int, default=4)
parser.add_argument("--lr", type=float, default=0.5)
args = parser.parse_args()
model = nn.Linear(5, CLASSES).double()
train_loss_fn = nn.CrossEntropyLoss(label_smoothing=args.smoothing)
optimizer = torch.optim.SGD(model.parameters(), args.lr, momentum=0.5)
for _ in range(args.epochs):
    inputs, labels = (torch.tensor(part) for part in data("train"))
    for batch in torch.split(torch.randperm(len(labels)), 30):
        optimizer.zero_grad()
        train_loss_fn(model(inputs[batch]), labels[batch]).backward()
        optimizer.step()
folder = os.environ["SWEEPER_DIR"]
for split in os.environ["SWEEPER_SPLITS"].split(","):
    inputs, targets = data(split)
    with torch.no_grad():
        np.savez(
            f"{folder}/part", logits=model(torch.tensor(inputs)), labels=targets
        )  # for sweeper
    os.replace(f"{folder}/part.npz", f"{folder}/{split}-0001.npz")  # for sweeper
