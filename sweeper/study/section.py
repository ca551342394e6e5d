"""The base of all tables of a study file."""

from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from sweeper import limits

Reference = Annotated[str, Field(max_length=limits.REFERENCE_LENGTH)]
# For tables with arbitrary keys. At runtime, `check_size_limits` counts the keys of every table.
FEW_KEYS: Final[dict[str, Any]] = {"maxProperties": limits.KEYS_PER_TABLE}


class Section(BaseModel):
    """A table of the study file. It is immutable, and unknown keys are errors."""

    # strict: "3" and true are not accepted as numbers
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)
