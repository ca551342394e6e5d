"""A script of somebody else, unchanged: torch's label_smoothing, and a log that people read."""

import argparse

import torch
from softmax import CLASSES, data  # type: ignore[import-not-found]
from torch.nn.functional import cross_entropy

parser = argparse.ArgumentParser()
parser.add_argument("--label-smoothing", type=float, default=0.1)
parser.add_argument("--lr", type=float, default=0.5)
args = parser.parse_args()
splits = {name: [torch.tensor(part) for part in data(name)] for name in ("train", "valid")}
model = torch.nn.Linear(5, CLASSES).double()
optimizer = torch.optim.SGD(model.parameters(), args.lr)
for epoch in range(1, 5):
    inputs, labels = splits["train"]
    for _ in range(20):
        optimizer.zero_grad()
        loss = cross_entropy(model(inputs), labels, label_smoothing=args.label_smoothing)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    inputs, labels = splits["valid"]
    with torch.no_grad():
        print(f"epoch {epoch}: val_loss {cross_entropy(model(inputs), labels):.6f}")
