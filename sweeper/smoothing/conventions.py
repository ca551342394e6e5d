"""What epsilon means: shared by the other classes, or by all of them."""

from numbers import Real
from typing import Any

from sweeper.errors import nearest

OTHERS = "others"
UNIFORM = "uniform"
CONVENTIONS = (OTHERS, UNIFORM)


def to_uniform(epsilon: float, classes: int) -> float:
    """Return the `uniform` epsilon with the same targets as this `others` epsilon.

    ε·K/(K-1): exact, since `uniform` gives ε/K of its mass back to the true class. Above
    (K-1)/K the result exceeds 1, which this project's loss takes and torch's does not.
    Raises ValueError for an epsilon outside [0, 1] or fewer than 2 classes.
    """
    check_classes(classes)
    return check_epsilon(epsilon) * classes / (classes - 1)


def to_others(epsilon: float, classes: int) -> float:
    """Return the `others` epsilon with the same targets as this `uniform` epsilon.

    ε·(K-1)/K, the inverse of `to_uniform`; so epsilon may be up to K/(K-1). Raises ValueError
    outside that range or for fewer than 2 classes.
    """
    check_classes(classes)
    highest = classes / (classes - 1)
    if not 0.0 <= epsilon <= highest:
        raise ValueError(
            f"epsilon is {epsilon}; with {classes} classes a `uniform` epsilon "
            f"lies in [0, {highest:.6g}]"
        )
    return epsilon * (classes - 1) / classes


def is_number(value: Any) -> bool:
    """Return whether a value is a real number and no bool; NumPy's scalars are."""
    # The first test alone decides under torch.compile, where a float is symbolic.
    return isinstance(value, (int, float, Real)) and not isinstance(value, bool)


def check_epsilon(epsilon: float) -> float:
    """Return epsilon if it is a number in [0, 1], else raise ValueError."""
    # Not `< 0 or > 1`: NaN fails every comparison, so only this form refuses it.
    if not (is_number(epsilon) and 0.0 <= epsilon <= 1.0):
        raise ValueError(f"epsilon is {epsilon!r}; it is a number in [0, 1]")
    return epsilon


def check_progress(progress: float) -> float:
    """Return progress if it is a number in [0, 1], else raise ValueError."""
    if not (is_number(progress) and 0.0 <= progress <= 1.0):
        raise ValueError(
            f"progress is {progress!r}; it is the share of the training that is done, in [0, 1]"
        )
    return progress


def check_classes(classes: int) -> int:
    """Return the number of classes if it is at least 2, else raise ValueError."""
    if classes < 2:
        raise ValueError(f"there are {classes} classes; label smoothing needs at least 2")
    return classes


def check_convention(convention: str) -> str:
    """Return the convention if it is a known one, else raise ValueError."""
    if convention not in CONVENTIONS:
        hint = nearest(str(convention), CONVENTIONS)
        raise ValueError(
            f"convention is {convention!r}{hint}; it is one of {', '.join(CONVENTIONS)}"
        )
    return convention
