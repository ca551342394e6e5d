"""One value is written in one way, in tables, pages, reports and notes."""

from dataclasses import fields

import pytest

from sweeper import formatting as fmt
from sweeper.metrics import METRICS
from sweeper.report.figures.kit import style
from sweeper.report.optuna_dashboard import note
from sweeper.report.page import render
from sweeper.scoring import Scores
from sweeper.smoothing import SCHEDULES
from sweeper.smoothing.names import BUILT_IN
from tests.support.processes import run
from tests.support.service_world import World


def test_every_score_has_a_name_and_every_schedule_a_style() -> None:
    assert set(METRICS) == {field.name for field in fields(Scores)}
    assert tuple(SCHEDULES)[: len(BUILT_IN)] == tuple(BUILT_IN)
    styles = style.styles(())
    assert tuple(styles) == tuple(BUILT_IN)
    assert len({(s.color, s.symbol, s.dash) for s in styles.values()}) == len(BUILT_IN)


@pytest.mark.parametrize(
    ("configuration", "text"),
    [
        ((0.0, "cosine", 2.0), "ε = 0"),
        ((0.1, "fixed", None), "ε = 0.10, fixed"),
        ((0.1, "fixed", float("nan")), "ε = 0.10, fixed"),
        ((0.012345, "linear", 2.0), "ε = 0.012, linear, rate 2.0"),
        ((0.359, "cosine", 11.96), "ε = 0.36, cosine, rate 12"),
    ],
)
def test_configuration_has_two_significant_figures(
    configuration: tuple[float, str, float | None], text: str
) -> None:
    assert fmt.smoothing(*configuration) == text


def test_failed_trials_are_counted_in_words() -> None:
    assert fmt.failure_counts({"raised": 2, "memory": 1, "diverged": 1, "": 3}) == (
        "2 exceptions, 1 out of memory, 1 diverged"
    )
    assert fmt.failure_counts({"raised": 1}) == "1 exception"


def test_the_best_trial_is_the_same_everywhere(template: World) -> None:
    study = template.study
    snapshot = study.snapshot()
    best, base = snapshot.best, snapshot.baseline
    assert best is not None
    assert base is not None
    status = run("status", "quick", "--storage", study.storage).out
    report = render(study.report_input())
    assert study.report_input().checks == snapshot.health
    for text in (report, note(snapshot)):
        assert fmt.trial_smoothing(best) in text
    for text in (report, note(snapshot), status):
        assert fmt.nll(best["nll"]) in text
        assert fmt.nll(base["nll"]) in text
        assert fmt.percent(best["accuracy"]) in text
