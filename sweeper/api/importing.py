"""Convert the files of other programs to study files."""

from pathlib import Path

import tomli_w

from sweeper.errors import SweeperError
from sweeper.files import atomic_write
from sweeper.study.load import read_text
from sweeper.study.schema_errors import prefix_errors
from sweeper.study.wandb import convert_wandb, study_name, sweep_name
from sweeper.study.wandb_parameters import EpsilonName


def import_wandb(
    file: Path,
    target: Path,
    *,
    name: str | None = None,
    epsilon: str | None = None,
    label_smoothing: str | None = None,
    classes: int | None = None,
) -> tuple[str, ...]:
    """Convert the YAML file of a W&B sweep, and write the study file `target`.

    `name` is that of the study, None for that of the sweep or of its file. `epsilon` is the
    parameter that is ε (the mass taken from the true class), or "none". `label_smoothing` is the
    parameter that is ε in torch's convention; it needs the number of `classes`. Without both, the
    names `epsilon`, `label_smoothing` and `smoothing` are recognized. Returns notes about what
    differs from the sweep. Raises `SweeperError`, with one line per problem, if a part of the sweep
    has no equivalent or a file cannot be read or written.
    """
    try:
        text = read_text(file)
    except (OSError, UnicodeDecodeError) as error:
        raise SweeperError(f"{file}: cannot be read: {error}") from None
    with prefix_errors(file):
        title = name or study_name(sweep_name(text), file.stem)
        imported = convert_wandb(text, title, EpsilonName(epsilon, label_smoothing, classes))
    content = tomli_w.dumps(dict(imported.tables)).encode()
    try:
        atomic_write(target, lambda stream: stream.write(content))
    except OSError as error:
        raise SweeperError(f"{target}: cannot be written: {error.strerror}") from None
    return imported.notes
