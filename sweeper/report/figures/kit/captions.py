"""Sentences that several figures share."""

from sweeper import formatting as fmt
from sweeper.report.report_input import Floats


def clipped_note(values: Floats, limit: float | None, noun: str = "trial") -> str:
    """Return a sentence with the number of values above the limit, NaN included; "" for none."""
    beyond = 0 if limit is None else int((~(values <= limit)).sum())
    if limit is None or not beyond:
        return ""
    drawn = "is drawn as an arrow at the edge" if beyond == 1 else "are drawn as arrows at the edge"
    return f"{fmt.count_noun(beyond, noun)} above {fmt.nll(limit)} {drawn}."


def overlap_note(count: int) -> str:
    """Return a sentence with the number of overlapping points that are not drawn; "" for none."""
    return f"{fmt.count_noun(count, 'overlapping point')} hidden." if count else ""
