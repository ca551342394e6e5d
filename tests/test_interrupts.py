"""Ctrl-C while the database is used: it waits for the operation and leaves no lock behind."""

import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text

from sweeper.store.database import Store, open_writer
from sweeper.store.studies import StudyRecord, get_study
from sweeper.study.progress import read_progress
from sweeper.study.registration import register
from tests.support.studies import read_here

SIGNALS = (signal.SIGINT, signal.SIGTERM)
Work = Callable[[Connection], object]
INSERT = text("insert into marks (number) values (1)")


@pytest.fixture(autouse=True)
def ctrl_c() -> Iterator[None]:
    """Raise KeyboardInterrupt for Ctrl-C; a test run in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def store(storage: str) -> Iterator[Store]:
    opened = open_writer(storage)
    opened.transact(lambda connection: connection.execute(text("create table marks (number int)")))
    yield opened
    opened.close()


def interrupted(presses: int) -> Work:
    """Return a transaction in which Ctrl-C is pressed before a row is inserted."""

    def work(connection: Connection) -> None:
        for _ in range(presses):
            signal.raise_signal(signal.SIGINT)
        connection.execute(INSERT)

    return work


def marks(store: Store) -> int:
    count = text("select count(*) from marks")
    return int(store.transact(lambda connection: connection.execute(count).scalar_one()))


@pytest.mark.parametrize(("presses", "inserted"), [(1, 1), (2, 0)])
def test_first_ctrl_c_waits_for_the_transaction(store: Store, presses: int, inserted: int) -> None:
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        store.transact(interrupted(presses))
    assert marks(store) == inserted
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_delayed_handler_that_stays_installed_calls_the_other_one_at_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    install, before = signal.signal, [signal.getsignal(number) for number in SIGNALS]

    def interrupted_restoration(number: int, handler: Any) -> Any:
        if handler in before:
            raise KeyboardInterrupt
        return install(number, handler)

    monkeypatch.setattr(signal, "signal", interrupted_restoration)
    with pytest.raises(KeyboardInterrupt):
        store.transact(lambda connection: connection.execute(INSERT))
    try:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        for number, handler in zip(SIGNALS, before, strict=True):
            install(number, handler)


def read_until_ctrl_c(store: Store, record: StudyRecord, seconds: float) -> None:
    threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT)).start()
    while True:
        read_progress(store, record, 12)


def test_ctrl_c_at_any_moment_leaves_no_lock_behind(
    store: Store, write_study: Callable[..., Path]
) -> None:
    register(store, read_here(write_study()))
    record, moments = get_study(store, "quick"), random.Random(0)
    for _ in range(60):
        with pytest.raises(KeyboardInterrupt):
            read_until_ctrl_c(store, record, moments.uniform(0.0, 0.01))
        assert read_progress(store, record, 12).ended == 0
