"""The version of the package, which pyproject.toml reads from here, and its name on the index."""

from typing import Final

__version__ = "0.1.0"

# `pip install sweeper` would install another project.
DISTRIBUTION: Final = "label-smoothing-sweeper"
