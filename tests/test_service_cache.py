"""`TtlCache`, with a clock that the test sets."""

import asyncio
import threading

import pytest

from sweeper.service.cache import TtlCache
from sweeper.service.study_reader import StudyReader
from tests.support.service_world import World


class Clock:
    """A clock; computing anything takes `work` seconds of it."""

    def __init__(self, work: float) -> None:
        self.now, self.work, self.computed = 0.0, work, 0

    def __call__(self) -> float:
        return self.now

    def compute(self, key: str) -> str:
        self.computed += 1
        self.now += self.work
        return f"{key} {self.computed}"


@pytest.mark.parametrize(
    ("work", "kept"),
    [(0.01, 1.0), (0.2, 2.0), (5.0, 3.0)],  # for `seconds`, by `share`, for `longest`
)
def test_cached_value_expires(work: float, kept: float) -> None:
    clock = Clock(work)
    recent = TtlCache(clock.compute, seconds=1.0, share=0.1, longest=3.0, clock=clock)
    assert recent("a") == "a 1"
    computed = clock.now
    clock.now = computed + kept - 0.001
    assert recent("a") == "a 1"
    assert asyncio.run(recent.get("a")) == "a 1"
    clock.now = computed + kept
    assert asyncio.run(recent.get("a")) == "a 2"
    recent.forget("a")
    assert recent("a") == "a 3"


def test_errors_are_not_cached_and_old_keys_are_evicted() -> None:
    clock = Clock(0.0)
    known = {"a": clock.compute, "b": clock.compute}
    recent = TtlCache[str, str](lambda key: known[key](key), seconds=1.0, most=1, clock=clock)
    with pytest.raises(KeyError):
        recent("c")
    known["c"] = clock.compute
    assert [recent(key) for key in "caac"] == ["c 1", "a 2", "a 2", "c 3"]


def test_stale_value_is_returned_during_computation() -> None:
    clock, begun, go_on = Clock(0.0), threading.Event(), threading.Event()

    def slow(key: str) -> str:
        if clock.computed:
            begun.set()
            assert go_on.wait(timeout=30)
        return clock.compute(key)

    recent = TtlCache(slow, seconds=1.0, clock=clock)
    assert recent("a") == "a 1"
    clock.now = 1.0
    found: list[str] = []
    other = threading.Thread(target=lambda: found.append(recent("a")))
    other.start()
    assert begun.wait(timeout=30)
    assert recent("a") == "a 1"
    go_on.set()
    other.join(timeout=30)
    assert found == ["a 2"]


def test_slow_values_are_cached_longer(template: World) -> None:
    class Ticking:
        """A clock on which a second passes between two looks."""

        now = 0.0

        def __call__(self) -> float:
            self.now += 1.0
            return self.now - 1.0

    clock = Ticking()
    library = StudyReader(template.study.storage, clock)
    first = library.status("quick")  # read from 0 to 1
    clock.now = 3.999
    assert library.status("quick") is first
    clock.now = 4.0
    assert library.status("quick") is not first
    library.close()
