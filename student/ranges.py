"""What settings may be; each check names the setting, as ``train.steps``."""

from __future__ import annotations


def at_least(name: str, value: float, low: float) -> None:
    """Refuse a setting below ``low``, or nan.

    Raises:
        ValueError: naming the setting, its value and what is valid.
    """
    if not value >= low:
        raise ValueError(f"{name} must be >= {low}, got {value}")


def below_one(name: str, value: float) -> None:
    """Refuse a share outside [0, 1).

    Raises:
        ValueError: naming the setting, its value and what is valid.
    """
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be in [0, 1), got {value}")


def positive(name: str, value: float) -> None:
    """Refuse a setting that is not > 0.

    Raises:
        ValueError: naming the setting, its value and what is valid.
    """
    if not value > 0:
        raise ValueError(f"{name} must be > 0, got {value}")


def one_of(name: str, value: str, valid: tuple[str, ...]) -> None:
    """Refuse a word that is none of ``valid``.

    Raises:
        ValueError: naming the setting, its value and what is valid.
    """
    if value not in valid:
        raise ValueError(f"{name} is {value!r}; give one of {', '.join(valid)}")
