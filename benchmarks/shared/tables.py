"""Markdown tables of results, their cells, and the documents that they are written to."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table without the columns that are empty in every row."""
    columns = zip(headings, *rows, strict=True)
    kept = [column for number, column in enumerate(columns) if number == 0 or any(column[1:])]
    widths = [max(map(len, column)) for column in kept]
    first, *others = zip(*kept, strict=True)
    ruled = [first, ["-" * width for width in widths], *others]
    padded = (map(str.ljust, row, widths) for row in ruled)
    return "\n".join(f"| {' | '.join(row)} |" for row in padded)


def median_range(values: Sequence[float], form: str = "{:.1f}") -> str:
    """Return the median with the lowest and the highest value."""
    middle, low, high = (form.format(of(values)) for of in (statistics.median, min, max))
    return f"{middle} ({low} to {high})"


def median_percentile(values: Iterable[float], percent: float, form: str = "{:.1f}") -> str:
    """Return the median and a percentile, or an empty string for fewer than two values."""
    given = list(values)
    if len(given) < 2:
        return ""
    return " / ".join(form.format(cut) for cut in np.percentile(given, (50, percent)))


def replace_section(text: str, begin: str, end: str, section: str) -> str:
    """Return the text with a section in place of what `begin` and `end` enclose, both included.

    Raises ValueError if one of them is missing.
    """
    before, found, rest = text.partition(begin)
    _, ended, after = rest.partition(end)
    if not found or not ended:
        raise ValueError(f"the document has no {begin!r} with {end!r} after it; put one there")
    return before + section + after


def write_tables(path: Path, prefix: str, tables: Mapping[str, str]) -> None:
    """Write tables to a document, each between the comments that have its name."""
    text = path.read_text(encoding="utf-8")
    for name, rows in tables.items():
        begin, end = f"<!-- {prefix}: {name} -->\n", "\n<!-- end -->"
        text = replace_section(text, begin, end, begin + rows + end)
    path.write_text(text, encoding="utf-8")
