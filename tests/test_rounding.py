"""The pages, the report, the export and the commands show the same digits of one value."""

import json
import math
import re
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from sweeper import Study
from sweeper import formatting as fmt
from sweeper.confirmation.evidence import COMPARED_SCORES, Evidence
from sweeper.confirmation.verdict import describe_smoothing
from sweeper.metrics import METRICS
from sweeper.report.optuna_dashboard import note
from tests.support.messages import page_text
from tests.support.processes import run
from tests.support.service_world import World

# A number with a decimal point: integers are counts, trial numbers and seeds.
DECIMAL: Final = re.compile(r"(?<![\w.])([+−±-]?)(\d+\.\d+)(%?)(?!\w|\.\d|%|\sGiB|\ss\b)")
CLASSES: Final = 12
# Accuracies and calibration errors are percentages.
FRACTION: Final = re.compile(r"(?:accuracy|ECE)[:,]? 0\.\d+")


class Value(NamedTuple):
    """A value of a study and its correct text."""

    name: str
    value: float
    text: str


def known_values(study: Study) -> Iterator[Value]:
    """Yield the values of all trials and of the confirmation, with their texts."""
    snapshot = study.snapshot()
    epochs = study.epochs()
    for _, row in snapshot.frame.iterrows():
        trial = fmt.trial_name(row)
        for key in ("epsilon", "label_smoothing"):
            yield Value(f"{key} of {trial}", row[key], fmt.epsilon(row[key]))
        yield Value(f"rate of {trial}", row["rate"], fmt.two_figures(row["rate"]))
        yield from (_score(f"{key} of {trial}", key, row[key]) for key in METRICS)
        quality = row["extra_quality"]
        yield Value(f"quality of {trial}", quality, fmt.setting(quality))
    for epoch in epochs.to_dict("records"):
        name = f"epoch {epoch['epoch']} of trial {epoch['number']}"
        yield Value(f"epsilon in {name}", epoch["epsilon"], fmt.epsilon(epoch["epsilon"]))
        yield from (_score(f"{k} in {name}", k, epoch[k]) for k in ("nll", "accuracy", "ece"))
    yield Value("K / (K - 1)", CLASSES / (CLASSES - 1), f"{CLASSES / (CLASSES - 1):.3g}")
    assert snapshot.evidence is not None
    yield from _confirmed(snapshot.evidence)


def _score(name: str, key: str, value: float) -> Value:
    return Value(name, value, METRICS[key].write(value))


def _confirmed(evidence: Evidence) -> Iterator[Value]:
    for index, candidate in enumerate(evidence.candidates):
        name = f"candidate {index}"
        epsilon, rate = candidate.point["epsilon"], candidate.point["rate"]
        yield Value(f"epsilon of {name}", epsilon, fmt.epsilon(epsilon))
        yield Value(f"rate of {name}", rate, fmt.two_figures(rate))
        for key, split in product(COMPARED_SCORES, ("valid", "test", "train")):
            comparison = evidence.compare(index, key, split)
            if comparison is None:
                continue
            yield _score(f"{key} of {name} on {split}", key, comparison.mean)
            if split != "test":
                continue
            factor, difference = METRICS[key].factor, comparison.difference
            decimals = fmt.interval_decimals(difference, factor)
            for end in ("estimate", "low", "high"):
                value = factor * getattr(difference, end)
                text = fmt.signed(value, decimals)
                yield Value(f"{end} of {key} of {name} on {split}", value, text)
        yield from _seeds(evidence, index)


def _seeds(evidence: Evidence, index: int) -> Iterator[Value]:
    comparison = evidence.compare(index, evidence.metric)
    assert comparison is not None
    decimals = fmt.interval_decimals(comparison.difference)
    for pair in evidence.pairs(index):
        pick, base = (evidence.score(replicate, "test", evidence.metric) for replicate in pair)
        assert pick is not None
        assert base is not None
        value = pick - base
        yield Value(f"one seed of candidate {index}", value, fmt.signed(value, decimals))


def wrong_digits(text: str, known: Sequence[Value]) -> list[str]:
    """Return the numbers of a text that are a rounding of a known value, but not its text."""
    right = {(size, percent) for value in known for _, size, percent in DECIMAL.findall(value.text)}
    wrong = []
    for sign, size, percent in DECIMAL.findall(text):
        # One figure is too little to tell which value it is.
        if (size, percent) in right or len(size.replace(".", "").lstrip("0")) < 2:
            continue
        decimals, factor = len(size.partition(".")[2]), 100 if percent else 1
        wrong += [
            f"{sign}{size}{percent} is {value.name}: {value.text}"
            for value in known
            if f"{factor * abs(value.value):.{decimals}f}" == size
            and value.text.endswith("%") == bool(percent)
        ][:1]
    return wrong + FRACTION.findall(text)


def texts(world: World, folder: Path) -> Iterator[tuple[str, str]]:
    """Yield all text about the study that people read, with the place where they read it."""
    study, best = world.study, world.study.best
    assert best is not None
    number = best["number"]
    for path in (
        "/studies",
        *(f"/studies/quick?shown={page}" for page in ("overview", "calibration", "schedules")),
        "/studies/quick/trials",
        f"/studies/quick/trials/{number}",
        f"/compare?item=quick/0&item=quick/{number}",
        "/compare?item=quick&item=quick",
    ):
        yield path, _page(world.site.page_with_figures(path).text)
    report = folder / "report.html"
    study.report(report)
    yield "report", _page(report.read_text(encoding="utf-8"))
    storage = ("--storage", study.storage)
    yield "status", run("status", "quick", *storage).out
    yield "trials", run("trials", "quick", *storage).out
    yield "logs", run("logs", "quick", number, *storage).out
    python = run("export", "quick", "--format", "python", *storage).out
    yield "best.py", python.split('"""')[1]  # its code has the full precision
    yield "optuna-dashboard", note(study.snapshot())


def _page(html: str) -> str:
    """Return the visible text of a page with every text in its figures."""
    figures = re.findall(r'<script type="application/json">(.*?)</script>', html, re.DOTALL)
    inside = (text for figure in figures for text in _strings(json.loads(figure)))
    return "\n".join((page_text(html, tooltips=False), *inside))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield re.sub(r"<[^>]*>", " ", value)
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)


@pytest.fixture(scope="module")
def known(template: World) -> list[Value]:
    return [value for value in known_values(template.study) if math.isfinite(value.value)]


@pytest.fixture(scope="module")
def shown(template: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return dict(texts(template, tmp_path_factory.mktemp("shown")))


@pytest.mark.slow
def test_a_value_has_the_same_digits_everywhere(known: list[Value], shown: dict[str, str]) -> None:
    wrong = {place: wrong_digits(text, known) for place, text in shown.items()}
    lines = [f"{place}: {line}" for place, lines in wrong.items() for line in lines]
    assert not lines, "\n".join(lines)


@pytest.mark.slow
def test_a_negative_number_has_a_minus_sign(shown: dict[str, str]) -> None:
    hyphens = {
        place: ["".join(number) for number in DECIMAL.findall(text) if number[0] == "-"]
        for place, text in shown.items()
    }
    assert {place: numbers for place, numbers in hyphens.items() if numbers} == {}


@pytest.mark.slow
def test_each_place_shows_the_pick_and_its_difference(
    template: World, shown: dict[str, str]
) -> None:
    snapshot = template.study.snapshot()
    verdict, best, base = snapshot.verdict, snapshot.best, snapshot.baseline
    assert verdict is not None
    assert best is not None
    assert base is not None
    difference = verdict.comparison.difference
    decimals = fmt.interval_decimals(difference)
    expected = {
        fmt.nll(best["nll"]): set(shown) - {"best.py"},
        fmt.nll(base["nll"]): set(shown)
        - {"logs", "best.py", f"/studies/quick/trials/{best['number']}"},
        describe_smoothing(verdict.pick): {"report", "status", "best.py", "optuna-dashboard"},
        fmt.interval(difference): {"report", "status", "/compare?item=quick&item=quick"},
        f"{abs(difference.estimate):.{decimals}f}": {"report", "best.py", "optuna-dashboard"},
    }
    missing = {
        text: lacking
        for text, places in expected.items()
        if (lacking := {place for place in places if text not in shown[place]})
    }
    assert missing == {}


@pytest.mark.parametrize("text", ["NLL 0.40", "NLL 0.3982", "39.82%", "accuracy 0.398"])
def test_other_digits_of_a_known_value_are_found(text: str) -> None:
    known = [Value("NLL", 0.39824, "0.398"), Value("accuracy", 0.39824, "39.8%")]
    assert len(wrong_digits(f"{text}.", known)) == 1
    assert wrong_digits("NLL 0.398, accuracy 39.8%.", known) == []
