"""Checks that the adapters share."""


def check_setting(name: str, given: object, allowed: object, description: str) -> None:
    """Raise ValueError if a setting of a framework does not have the only allowed value."""
    if given != allowed:
        raise ValueError(f"{name} is {given!r}; it must be {description}")
