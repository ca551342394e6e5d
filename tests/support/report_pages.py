"""Made-up studies in unusual states, and the text of a report."""

import math
import re
from html import unescape
from typing import Any

import numpy as np
import pandas as pd
from plotly.offline import get_plotlyjs

from sweeper.report import ReportInput
from sweeper.study.results import EPOCH_COLUMNS
from tests.support.report_frames import FAILED, PRUNED, frame, make_report, make_trial, make_trials

NAMES = ["response", "trade_off", "calibrated", "schedules", "history", "importance"]
# Left out of a page without a confirmation, and of one without other hyperparameters.
CONFIRMED = ["forest", "scores", "reliability"]
OTHERS = ["isolation", "interaction"]
HOSTILE = "<b>x</b><script>alert('x')</script></script><img src=x onerror=alert(1)>{{ 7 * 7 }}"


def own_part(html: str) -> str:
    """Return the page without plotly's library."""
    return html.replace(get_plotlyjs(), "")


def words(html: str) -> str:
    """Return the visible words of the page, in one line."""
    body = re.sub(r"<(script|style).*?</\1>", "", own_part(html), flags=re.DOTALL)
    return unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body)))


def only(*changes: dict[str, Any]) -> pd.DataFrame:
    """Return a study of one trial a change; the first is the baseline."""
    rng = np.random.default_rng(0)
    return frame(
        [
            make_trial(number, 0.1 * number, "fixed", math.nan, rng) | change
            for number, change in enumerate(changes)
        ]
    )


def odd_values() -> pd.DataFrame:
    """Return a study in which scores are NaN and infinite where they should be numbers."""
    trials = make_trials(20)
    trials.loc[3, ["value", "nll"]] = math.inf
    trials.loc[4, ["value", "nll", "ece", "accuracy"]] = math.nan
    trials.loc[5, ["nll_calibrated", "temperature"]] = math.inf
    trials.loc[6, "value"] = -math.inf
    trials.loc[7, "rate"] = math.inf
    return trials


def renamed(schedule: str) -> pd.DataFrame:
    """Return a study in which one schedule is a user's own."""
    trials = make_trials(30)
    trials["schedule"] = trials["schedule"].replace("cosine", schedule)
    return trials


ODD: dict[str, tuple[ReportInput, str]] = {
    "only the baseline": (make_report(only({})), "Only the baseline, ε = 0, has finished so far"),
    "nothing finished": (make_report(only(PRUNED, PRUNED)), "No trial has finished yet"),
    "one running": (make_report(only(PRUNED | {"state": "running"})), "No trial has finished yet"),
    "all failed": (make_report(only(FAILED, FAILED, FAILED)), "All 3 trials failed"),
    "the only one failed": (make_report(only(FAILED)), "The only trial failed"),
    "no trial": (make_report(make_trials(1).iloc[:0]), "No trial has started yet"),
    "no columns": (
        make_report(pd.DataFrame(), epochs=pd.DataFrame()),
        "No trial has started yet",
    ),
    "failed baseline": (
        make_report(only(FAILED, {})),
        "Lowest so far: ε = 0.10, fixed; the baseline, ε = 0, has not finished",
    ),
    "one schedule": (
        make_report(make_trials().query("schedule == 'fixed'")),
        "Lowest in the search: ε =",
    ),
    "baseline wins": (
        make_report(only({"value": 0.01, "nll": 0.01}, {})),
        "Lowest in the search: ε = 0",
    ),
    "classes unknown": (
        make_report(make_trials().assign(label_smoothing=math.nan), classes=None),
        "Lowest in the search: ε =",
    ),
    "after scaling": (
        make_report(
            make_trials().assign(value=lambda t: t["nll_calibrated"]), metric="nll_calibrated"
        ),
        "NLL after temperature scaling",
    ),
    "own schedule": (
        make_report(renamed("slow.py:mine")),
        "Custom schedules of this study: slow.py:mine",
    ),
    "odd values": (make_report(odd_values()), "non-finite value"),
    "no epochs": (
        make_report(epochs=pd.DataFrame(columns=list(EPOCH_COLUMNS))),
        "with recorded epochs",
    ),
    "nothing known beside": (
        make_report(importance={}, facts={}, label_source={}),
        "Validation split.",
    ),
}
