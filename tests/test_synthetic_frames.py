"""The synthetic study of the report tests resembles the digits study."""

from tests.support.report_frames import make_trials


def test_synthetic_study_resembles_digits_study() -> None:
    trials = make_trials()
    done = trials[trials["state"] == "complete"]
    raw = done.sort_values("nll").iloc[0]
    scaled = done.sort_values("nll_calibrated").iloc[0]
    assert raw["schedule"] != "fixed"
    assert (scaled["schedule"], scaled["epsilon"] > 0.3) == ("fixed", True)
    assert set(trials["state"]) == {"complete", "pruned", "failed"}
