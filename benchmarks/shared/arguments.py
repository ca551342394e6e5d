"""Command-line arguments that the benchmarks share."""

import argparse
from collections.abc import Callable, Sequence
from typing import Any


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser with `--quick`, described by the first line of a script's docstring."""
    made = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    made.add_argument(
        "--quick",
        action="store_true",
        help="check in under a minute that the script works; the numbers mean little",
    )
    return made


def parse(parser: argparse.ArgumentParser, **quick: Any) -> argparse.Namespace:
    """Parse the command line. With `--quick`, the values in `quick` are the defaults."""
    if parser.parse_known_args()[0].quick:
        parser.set_defaults(**quick)
    given = parser.parse_args()
    if given.quick and getattr(given, "write", None):
        parser.error("--quick measures too little for a document; leave out --quick or --write")
    return given


def numbers(text: str) -> list[int]:
    """Parse integers separated by commas."""
    return [int(number) for number in text.split(",")]


def names_among(allowed: Sequence[str]) -> Callable[[str], list[str]]:
    """Return a parser of names separated by commas that rejects names outside `allowed`."""

    def parse_names(text: str) -> list[str]:
        names = text.split(",")
        if not set(names) <= set(allowed):
            raise argparse.ArgumentTypeError(f"{text}; allowed: {','.join(allowed)}")
        return names

    return parse_names
