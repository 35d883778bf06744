"""Checks that several methods' Configs share; a message names the field, what was found and what is allowed."""

from collections.abc import Sequence


def check_least(config: object, least: int, *names: str) -> None:
    """Refuse fields below `least`; None is not checked.

    Raises:
        ValueError: the first such field.
    """
    for name in names:
        if (value := getattr(config, name)) is not None and not value >= least:
            raise ValueError(f"{name}: found {value!r}, allowed is at least {least}")


def check_shares(config: object, *names: str) -> None:
    """Refuse fields outside (0, 1].

    Raises:
        ValueError: the first such field.
    """
    for name in names:
        if not 0 < getattr(config, name) <= 1:
            raise ValueError(f"{name}: found {getattr(config, name)!r}, allowed is a share in (0, 1]")


def check_compat(found: Sequence[str], allowed: Sequence[str]) -> None:
    """Refuse unknown behaviours of a published code.

    Raises:
        ValueError: the first of them.
    """
    if unknown := [name for name in found if name not in allowed]:
        raise ValueError(f"compat: found {unknown[0]!r}, allowed are {', '.join(allowed)}")


def check_any(config: object, *names: str) -> None:
    """Refuse fields that are all 0.

    Raises:
        ValueError: they are.
    """
    if not any(getattr(config, name) for name in names):
        raise ValueError(
            f"{', '.join(names)}: found {' and '.join('0' for _ in names)}, allowed is at least one above 0"
        )
