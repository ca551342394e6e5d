"""The two conventions of epsilon: mass for the other classes (`others`) or for all (`uniform`)."""

from numbers import Real
from typing import Any

from sweeper.errors import suggestion

OTHERS = "others"
UNIFORM = "uniform"
CONVENTIONS = (OTHERS, UNIFORM)


def to_uniform(epsilon: float, classes: int) -> float:
    """Return the `uniform` epsilon with the same targets as this `others` epsilon: ε·K/(K-1).

    The two differ because `uniform` gives ε/K of the mass back to the true class. For ε above
    (K-1)/K the result exceeds 1, which sweeper's loss accepts but torch's does not. Raises
    ValueError for an epsilon outside [0, 1] and for fewer than 2 classes.
    """
    check_classes(classes)
    return check_epsilon(epsilon) * classes / (classes - 1)


def to_others(epsilon: float, classes: int) -> float:
    """Return the `others` epsilon with the same targets as this `uniform` epsilon: ε·(K-1)/K.

    This is the inverse of `to_uniform`. Raises ValueError for an epsilon outside [0, K/(K-1)] and
    for fewer than 2 classes.
    """
    check_classes(classes)
    highest = classes / (classes - 1)
    if not 0.0 <= epsilon <= highest:
        raise ValueError(
            f"a `uniform` epsilon for {classes} classes must be in [0, {highest:.6g}], "
            f"got {epsilon}"
        )
    return epsilon * (classes - 1) / classes


def is_number(value: Any) -> bool:
    """Return whether a value is a real number, such as a NumPy scalar, but not a bool."""
    # torch.compile recognizes int and float, but not Real, for symbolic numbers.
    return isinstance(value, (int, float, Real)) and not isinstance(value, bool)


def check_epsilon(epsilon: float) -> float:
    """Return epsilon; raise ValueError unless it is a number in [0, 1]."""
    # Not `< 0 or > 1`, which is false for NaN.
    if not (is_number(epsilon) and 0.0 <= epsilon <= 1.0):
        raise ValueError(f"epsilon must be a number in [0, 1], got {epsilon!r}")
    return epsilon


def check_progress(progress: float) -> float:
    """Return progress; raise ValueError unless it is a number in [0, 1]."""
    if not (is_number(progress) and 0.0 <= progress <= 1.0):
        raise ValueError(
            f"progress must be a number in [0, 1], the fraction of training done; got {progress!r}"
        )
    return progress


def check_classes(classes: int) -> int:
    """Return the number of classes; raise ValueError unless it is at least 2."""
    if classes < 2:
        raise ValueError(f"label smoothing needs at least 2 classes, got {classes}")
    return classes


def check_convention(convention: str) -> str:
    """Return the convention; raise ValueError if it is unknown."""
    if convention not in CONVENTIONS:
        hint = suggestion(str(convention), CONVENTIONS)
        raise ValueError(
            f"unknown convention {convention!r}{hint}; allowed: {', '.join(CONVENTIONS)}"
        )
    return convention
