"""A custom training function: breast cancer diagnosis from 30 measurements of a cell sample."""

from collections.abc import Iterator
from typing import Any

import torch
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import scale

from sweeper import Evaluation, TrainingRun

EPOCHS, BATCH = 30, 32


def train(run: TrainingRun) -> Iterator[Evaluation]:
    """Train once. The study scores each evaluation without smoothing and may stop the run."""
    x, y = load_breast_cancer(return_X_y=True)
    inputs = torch.tensor(scale(x), dtype=torch.float32, device=run.device)
    labels = torch.tensor(y, device=run.device)
    # data_seed determines the split and seed everything else, so trials differ only in smoothing
    split = run.data_seed % 2**32
    rows, rest = train_test_split(range(len(y)), test_size=0.4, stratify=y, random_state=split)
    valid, test = train_test_split(rest, test_size=0.5, stratify=y[rest], random_state=split)
    torch.manual_seed(run.seed)
    order = torch.Generator().manual_seed(run.seed)
    model = torch.nn.Sequential(torch.nn.Linear(30, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
    optimizer = torch.optim.Adam(model.to(run.device).parameters(), lr=3e-3)
    loss = run.loss()  # the loss with the label smoothing of this trial
    done = 0
    if run.state is not None:  # the trial was interrupted: resume from its checkpoint
        done = run.state["epochs"]
        model.load_state_dict(run.state["model"])
        optimizer.load_state_dict(run.state["optimizer"])
        order.set_state(run.state["order"])

    def state() -> dict[str, Any]:
        return {
            "epochs": epoch + 1,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "order": order.get_state(),
        }

    def tested() -> tuple[torch.Tensor, torch.Tensor]:  # called only for the verdict
        with torch.no_grad():
            return model(inputs[test]), labels[test]

    for epoch in range(done, EPOCHS):
        loss.progress = epoch / EPOCHS  # lets epsilon anneal
        shuffled = torch.tensor(rows)[torch.randperm(len(rows), generator=order)]
        for batch in torch.split(shuffled, BATCH):
            optimizer.zero_grad()
            loss(model(inputs[batch]), labels[batch]).backward()
            optimizer.step()
        with torch.no_grad():
            logits = model(inputs[valid])
        auc = float(roc_auc_score(y[valid], logits.softmax(1)[:, 1].cpu()))
        progress = (epoch + 1) / EPOCHS
        yield Evaluation(
            logits,
            labels[valid],
            progress,
            extra={"auc": auc},
            state=state,
            splits={"test": tested},
        )
