"""A loop that trains with the loss of `sweeper.current_run()`, also with annealed schedules."""

import torch
from softmax import CLASSES, data  # type: ignore[import-not-found]

import sweeper

splits = {name: [torch.tensor(part) for part in data(name)] for name in ("train", "valid", "test")}
run = sweeper.current_run()
torch.manual_seed(run.seed % 2**32)  # for sweeper
model = torch.nn.Linear(5, CLASSES).double()
optimizer = torch.optim.SGD(model.parameters(), 0.5)
loss = run.loss()  # for sweeper


def outputs(split: str) -> tuple[torch.Tensor, torch.Tensor]:
    inputs, labels = splits[split]
    with torch.no_grad():
        return model(inputs), labels


for epoch in range(4):
    loss.progress = epoch / 4  # for sweeper
    for _ in range(20):
        optimizer.zero_grad()
        loss(model(splits["train"][0]), splits["train"][1]).backward()
        optimizer.step()
    tests = {"test": lambda: outputs("test")}  # for sweeper
    run.report(*outputs("valid"), progress=(epoch + 1) / 4, splits=tests)  # for sweeper
