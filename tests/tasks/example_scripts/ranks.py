"""The same on the ranks of torchrun, with DistributedDataParallel."""

import torch
import torch.distributed as dist
from softmax import CLASSES, data  # type: ignore[import-not-found]
from torch.nn.parallel import DistributedDataParallel

import sweeper

dist.init_process_group("gloo")
rank, ranks = dist.get_rank(), dist.get_world_size()
inputs, labels = (torch.tensor(part)[rank::ranks] for part in data("train"))
run = sweeper.current_run()
torch.manual_seed(run.seed % 2**32)  # for sweeper
model = DistributedDataParallel(torch.nn.Linear(5, CLASSES).double())
optimizer = torch.optim.SGD(model.parameters(), 0.5)
loss = run.loss()  # for sweeper


def outputs(split: str) -> tuple[torch.Tensor, torch.Tensor]:
    inputs, labels = (torch.tensor(part) for part in data(split))
    with torch.no_grad():
        return model.module(inputs), labels


for epoch in range(4):
    loss.progress = epoch / 4  # for sweeper
    for _ in range(20):
        optimizer.zero_grad()
        loss(model(inputs), labels).backward()
        optimizer.step()
    tests = {"test": lambda: outputs("test")}  # for sweeper
    run.report(*outputs("valid"), progress=(epoch + 1) / 4, splits=tests)  # for sweeper
dist.destroy_process_group()
