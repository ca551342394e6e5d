"""Studies in a notebook: a real kernel runs the cells."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from queue import Empty
from textwrap import dedent
from typing import Any

import psutil
import pytest

import sweeper
from sweeper.api import notebook

jupyter_client = pytest.importorskip("jupyter_client")
pytest.importorskip("ipykernel")
pytestmark = pytest.mark.slow

TRAIN = """
    import time
    import sweeper
    import torch
    from sweeper import Evaluation

    SECONDS = 0.0

    def train(run):
        labels = torch.arange(30) % 3
        for epoch in range(1, 5):
            time.sleep(SECONDS)
            yield Evaluation(torch.eye(3)[labels] * epoch, labels, epoch / 4)
"""
LAUNCH = """
    study = sweeper.launch(
        train, name="{name}", trials={trials}, storage="{storage}",
        workers=2, confirm=False, check=False,
    )
"""


class Kernel:
    """A kernel of a notebook, with its outputs."""

    def __init__(self, folder: Path) -> None:
        self._manager = jupyter_client.KernelManager()
        self._manager.start_kernel(cwd=str(folder))
        self._client = self._manager.blocking_client()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=120)

    def start(self, code: str) -> str:
        """Begin to run a cell; return the id of its request."""
        request: str = self._client.execute(dedent(code))
        return request

    def outputs(self, request: str) -> list[dict[str, Any]]:
        """Wait for the end of a cell; return its messages."""
        messages = list[dict[str, Any]]()
        while True:
            message = self._client.get_iopub_msg(timeout=200)
            if message["parent_header"].get("msg_id") != request:
                continue
            if message["content"].get("execution_state") == "idle":
                return messages
            messages.append(message)

    def run(self, code: str) -> list[dict[str, Any]]:
        """Run a cell; return its messages."""
        messages = self.outputs(self.start(code))
        errors = [m["content"]["evalue"] for m in messages if m["msg_type"] == "error"]
        assert errors == []
        return messages

    def interrupt(self) -> None:
        self._manager.interrupt_kernel()

    @property
    def processes(self) -> list[psutil.Process]:
        """The processes that the kernel has started."""
        return psutil.Process(self._manager.provisioner.pid).children(recursive=True)

    def close(self) -> None:
        self._client.stop_channels()
        self._manager.shutdown_kernel(now=True)


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernel]:
    with closing(Kernel(tmp_path)) as kernel:
        yield kernel


def test_a_cell_is_trained_and_displayed(kernel: Kernel, storage: str, tmp_path: Path) -> None:
    kernel.run(TRAIN)
    messages = kernel.run(LAUNCH.format(name="mine", trials=6, storage=storage))
    displays = [m["content"] for m in messages if m["msg_type"] == "display_data"]
    updates = [m["content"] for m in messages if m["msg_type"] == "update_display_data"]
    assert len(displays) == 1
    assert updates
    assert {u["transient"]["display_id"] for u in updates} == {
        displays[0]["transient"]["display_id"]
    }
    last = updates[-1]["data"]["text/html"]
    assert last.startswith("<div><b>mine</b> <progress value='6' max='6'></progress> 6/6 <small>")
    printed = [m["content"]["text"] for m in messages if m["msg_type"] == "stream"]
    assert [text for text in printed if "TqdmWarning" not in text] == []  # Optuna imports tqdm
    assert sweeper.open_study("mine", storage).frame()["state"].tolist() == ["complete"] * 6
    for shown in ("study", "study.snapshot()"):
        (result,) = [m for m in kernel.run(shown) if m["msg_type"] == "execute_result"]
        html = result["content"]["data"]["text/html"]
        assert "<b>Study mine</b> (finished)<br>6 of 6 trials have ended: 6 complete" in html
    figures = [m["content"].get("data", {}) for m in kernel.run("study.figures()")]
    drawn = [data for data in figures if "application/vnd.plotly.v1+json" in data]
    assert len(drawn) == len(sweeper.open_study("mine", storage).figures())


def test_an_interrupt_releases_the_trials(kernel: Kernel, storage: str) -> None:
    kernel.run(TRAIN + "    SECONDS = 0.5\n")
    request = kernel.start(LAUNCH.format(name="mine", trials=400, storage=storage))
    wait_for_display(kernel, "2 running")
    kernel.interrupt()
    (error,) = [m["content"] for m in kernel.outputs(request) if m["msg_type"] == "error"]
    assert error["ename"] == "KeyboardInterrupt"
    study = sweeper.open_study("mine", storage)
    assert study.progress().running == 0
    assert study.workers() == []
    assert psutil.wait_procs(kernel.processes, timeout=10)[1] == []
    kernel.run("SECONDS = 0.0")
    kernel.run(LAUNCH.format(name="mine", trials=6, storage=storage).replace(
        "workers=2", "workers=2, accept_code=True"))  # fmt: skip
    assert study.finished


def wait_for_display(kernel: Kernel, text: str) -> None:
    """Wait until the display of the progress contains a text."""
    while True:
        try:
            message = kernel._client.get_iopub_msg(timeout=200)
        except Empty:
            raise AssertionError(f"the display never showed {text!r}") from None
        if text in str(message["content"].get("data", {}).get("text/html")):
            return


def test_this_process_is_not_a_notebook() -> None:
    assert not notebook.in_notebook()
