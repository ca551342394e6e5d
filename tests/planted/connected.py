"""A script that trains with the loss of its run; the option --fault names the planted fault."""

import sys

import torch
from planted_data import CLASSES, EPOCHS, batches, network, split, step
from torch.nn import functional as F

import sweeper

fault = sys.argv[1].partition("=")[2]
run = sweeper.current_run()
x, y, valid_x, valid_y = split(run.data_seed)
model, loss = network(run.seed), run.loss()
optimizer = torch.optim.Adam(model.parameters(), 0.01)
for epoch in range(EPOCHS):
    loss.progress = epoch / EPOCHS
    for inputs, labels in batches(x, y, epoch):
        targets = labels
        if fault == "soft":
            targets = 0.9 * F.one_hot(labels, CLASSES) + 0.1 / CLASSES
        step(loss(model(inputs), targets), optimizer)
    with torch.no_grad():
        logits = model(valid_x)
    run.report(logits, valid_y, progress=(epoch + 1) / EPOCHS)
