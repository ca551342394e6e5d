"""The program of a trainer process that runs the script of a study."""

import shutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch

from sweeper.errors import SweeperError
from sweeper.tasks.facts import CodeFacts, CodeRequest
from sweeper.tasks.script_sources import ScriptSources
from sweeper.tasks.serving import MessageChannel, serve
from sweeper.training.device import environment, pick_device
from sweeper.training.messages import Start, ToTrainer
from sweeper.training.reporting import Exchange
from sweeper.training.scripts.config import ScriptConfig
from sweeper.training.scripts.supervisor import ScriptTrainer


class ScriptProgram:
    """The script of a study. Its files are hashed, and never imported.

    Raises `SweeperError`, with the key of the study file, if a file is missing or has a syntax
    error, or if ε cannot reach the script.
    """

    def __init__(self, request: CodeRequest) -> None:
        assert request.script is not None
        self._request = request
        self._script = ScriptConfig(**request.script)
        folder = Path(request.folder)
        try:
            sources = ScriptSources(folder, self._script.program, self._script.command)
        except SweeperError as error:
            text = str(error)
            raise SweeperError(
                text if text.startswith("task.") else f"task.program: {text}"
            ) from error
        has_flag = {"epsilon", "label_smoothing"} & self._script.flags.keys()
        if sources.digests and not has_flag and not sources.knows_epsilon:
            raise SweeperError(
                "task.flags: ε does not reach the script; set task.flags.epsilon or "
                "task.flags.label_smoothing, read SWEEPER_EPSILON in the script, or train with "
                'sweeper.current_run().loss() and set task.loss = "sweeper"'
            )
        self.facts = CodeFacts(is_task=False, sources=sources.digests)
        self._trainer: ScriptTrainer | None = None

    def check(self) -> None:
        """Raise `SweeperError` if no trial could run, because of the device or the command."""
        pick_device(self._request.device)
        first = self._script.command[0]
        if "${" not in first and not shutil.which(first) and not self._file(first):
            raise SweeperError(
                f"task.command[0]: {first!r} is not a program on this machine; give a program that "
                "is on the PATH, a path, or ${interpreter}"
            )

    def _file(self, name: str) -> bool:
        return "/" in name and Path(self._script.folder, name).is_file()

    def pack_size(self, first: Start, trials: int) -> tuple[int, str]:
        """Return 0 and the reason: each run is trained alone."""
        return 0, "each trial is trained alone: a script cannot be packed"

    def train(self, message: ToTrainer, exchange: Exchange, *, at_once: int) -> None:
        """Do the runs of a message and the runs that are started by the answers."""

        @cache
        def of_device(device: torch.device) -> Mapping[str, str]:
            return environment(device, Path(self._request.folder))

        if self._trainer is None:
            self._trainer = ScriptTrainer(self._script, of_device)
        self._trainer.train(message, exchange, at_once=at_once)

    def serve(self, worker: MessageChannel) -> None:
        """Handle the requests of a worker until it closes the connection."""
        torch.set_num_threads(self._request.threads)
        serve(self, worker)
