"""The page as text: what it holds, what it survives, and how it is written."""

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import pytest
from plotly.offline import get_plotlyjs

from sweeper.bundled import bundled_folder
from sweeper.errors import SweeperError
from sweeper.report import render, write_report
from sweeper.report.figures.registry import figures
from sweeper.report.page import for_script, read_page
from sweeper.study.results import EPOCH_COLUMNS, TRIAL_COLUMNS
from tests.support.report_frames import make_report, make_trials
from tests.support.report_pages import (
    CONFIRMED,
    HOSTILE,
    NAMES,
    ODD,
    OTHERS,
    own_part,
    renamed,
    words,
)


@pytest.mark.parametrize("case", ODD)
def test_report_of_every_study_state(case: str) -> None:
    report, message = ODD[case]
    text = words(render(report))
    assert message in text
    assert not re.search(r"\b(nan|NaN|None|<NA>|Infinity)\b", text.replace("loss is nan", ""))


@pytest.mark.parametrize("case", ODD)
def test_figures_of_every_study_state(case: str) -> None:
    drawn = figures(ODD[case][0])
    assert set(drawn) == {*NAMES, "forest", "reliability", *OTHERS}
    assert all(isinstance(figure, go.Figure) for figure in drawn.values())


def test_every_number_names_its_split_and_the_source_of_its_labels() -> None:
    text = words(render(make_report(label_source={"validation": "taken by hand"})))
    assert "search scores: validation split (labels: taken by hand)" in text
    assert "test split (labels:" not in text
    assert text.count("Validation split; labels: taken by hand.") == len(NAMES)
    assert text.count("Scores are on the validation split; labels: taken by hand.") == 2


def test_report_is_self_contained() -> None:
    html = render(make_report())
    assert html.count(get_plotlyjs()) == 1
    assert "://" not in own_part(html)
    assert not re.search(r"<(link(?! rel=\"icon\")|iframe|object|embed|base)\b", own_part(html))


def test_sections_follow_the_page_file() -> None:
    page = read_page(bundled_folder("dashboards") / "overview.toml")
    found = re.findall(r"<section id=\"(\w+)\"", render(make_report()))
    absent = {*CONFIRMED, *OTHERS}
    assert found == [panel.figure for panel in page.panels if panel.figure not in absent]
    assert found == ["verdict", "summary", *NAMES, "trials", "glossary"]


def test_importance_is_omitted_without_data() -> None:
    assert '<section id="importance"' not in render(make_report(importance={}))


@pytest.mark.parametrize("place", ["name", "failure", "schedule", "fact", "label", "parameter"])
def test_hostile_text_is_escaped(place: str) -> None:
    trials = make_trials(30)
    changes: dict[str, Any] = {}
    if place == "failure":
        trials.loc[2, ["state", "failure"]] = ["failed", HOSTILE]
    elif place == "schedule":
        trials = renamed(HOSTILE)
    elif place == "parameter":
        trials[f"hp_{HOSTILE}"] = 1.5
        changes = {"importance": {HOSTILE: 1.0}}
    else:
        values = {"name": HOSTILE, "fact": {HOSTILE: HOSTILE}, "label": {"validation": HOSTILE}}
        changes = {{"fact": "facts", "label": "label_source"}.get(place, place): values[place]}
    html = own_part(render(make_report(trials, **changes)))
    assert "<script>alert" not in html
    assert "<img" not in html
    assert html.count("</script>") == html.count("<script")
    assert HOSTILE in words(html)


def test_json_cannot_close_its_script_element() -> None:
    text = json.dumps(f"</script><!--{HOSTILE}")
    assert "<" not in for_script(text)
    assert json.loads(for_script(text)) == json.loads(text)


def test_a_failure_is_shown_by_its_first_line() -> None:
    trials = make_trials(30)
    trials.loc[2, ["state", "failure"]] = ["failed", "ValueError: bad\n  File 'x'"]
    text = words(render(make_report(trials)))
    assert "ValueError: bad" in text
    assert "File 'x'" not in text


def test_the_data_of_figures_is_json() -> None:
    html = own_part(render(make_report()))
    blocks = re.findall(r"<script type=\"application/json\"[^>]*>(.*?)</script>", html, re.DOTALL)
    assert len(blocks) == len(NAMES) + 1
    for block in blocks:
        json.loads(block)


def test_a_thousand_trials_fit_on_a_page() -> None:
    html = own_part(render(make_report(make_trials(1000), epochs=pd.DataFrame())))
    assert html.count("<tr data-state=") == 1000
    assert len(html) < 6_000_000


def test_report_is_written_atomically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "report.html"
    assert write_report(path, make_report(name="first")) == path
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("sweeper.files.os.replace", fail)
    with pytest.raises(SweeperError, match="cannot be written: no space left"):
        write_report(path, make_report(name="second"))
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_report_with_invalid_unicode_is_written(tmp_path: Path) -> None:
    assert write_report(tmp_path / "report.html", make_report(name="\ud800")).stat().st_size


def test_report_does_not_modify_its_frames() -> None:
    report = make_report()
    trials, epochs = report.trials.copy(), report.epochs.copy()
    render(report)
    pd.testing.assert_frame_equal(report.trials, trials)
    pd.testing.assert_frame_equal(report.epochs, epochs)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title = ", "Invalid value"),
        ("title = " + "[" * 20_000, "nested too deeply"),
        ('title = "x"', "panels: Field required"),
        ('title = "x"\npanels = []', "at least 1"),
        ('title = "x"\ncolor = 1\n[[panels]]\nfigure = "trials"\nheading = ""', "color: Extra"),
        (
            'title = "x"\n[[panels]]\nfigure = "respons"\nheading = ""',
            "'respons' (did you mean 'response'?)",
        ),
    ],
)
def test_page_file_error_names_file_and_key(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "page.toml"
    path.write_text(text)
    with pytest.raises(SweeperError) as raised:
        read_page(path)
    assert message in str(raised.value)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_missing_page_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(SweeperError, match=r"none\.toml"):
        read_page(tmp_path / "none.toml")


def test_custom_page_panels(tmp_path: Path) -> None:
    path = tmp_path / "page.toml"
    path.write_text('title = "Short"\n[[panels]]\nfigure = "history"\nheading = "Then"')
    html = render(make_report(), read_page(path))
    assert re.findall(r"<section id=\"(\w+)\"", html) == ["history"]
    assert "Short" in html


def test_bundled_folder_falls_back_to_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeper.bundled._PACKAGE", tmp_path / "sweeper")
    with pytest.raises(SweeperError, match="studies: not found"):
        bundled_folder("studies")
    (tmp_path / "studies").mkdir()
    assert bundled_folder("studies") == tmp_path / "studies"
    (tmp_path / "sweeper" / "_bundled" / "studies").mkdir(parents=True)
    assert bundled_folder("studies") == tmp_path / "sweeper" / "_bundled" / "studies"


def test_synthetic_frames_have_real_columns() -> None:
    report = make_report()
    assert list(report.trials.columns) == list(TRIAL_COLUMNS)
    assert list(report.epochs.columns) == list(EPOCH_COLUMNS)
