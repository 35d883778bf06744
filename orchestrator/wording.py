"""How complaints about values are worded: what was found, what is allowed, the nearest name.

A file of values is checked in several places (YAML, sections, spaces, methods); the words are the same because they
come from here.
"""

import difflib
import json
import math
import re
from collections.abc import Iterable

Key = tuple[str | int, ...]
"""Where a value stands: names of mappings and positions of lists, outermost first."""

LONGEST = 60
"""Characters of a value that a message repeats."""

_NUMBER = re.compile(r"[-+]?(\d[\d_]*\.?\d*|\.\d+)([eE][-+]?\d+)?")
_PLAIN_KEY = re.compile(r"[\w.+-]+")
_PLAIN = re.compile(r"[\w .,:/+-]+")


def shown(value: object) -> str:
    """Writes a value as JSON on one line, cut to a readable length."""
    text = json.dumps(value, default=repr)
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def listed(options: Iterable[object]) -> str:
    """Writes the allowed values one after the other; plain names without quotes."""
    return ", ".join(_spoken(option) for option in options)


def _spoken(option: object) -> str:
    """Leaves a plain name as it is; anything else, and text that YAML would read as a number, is written as JSON."""
    if isinstance(option, str) and _PLAIN.fullmatch(option) and not _NUMBER.fullmatch(option):
        return option
    return shown(option)


def nearest(name: object, options: Iterable[object]) -> str:
    """Returns `; did you mean 'x'?` for the closest option, or nothing when none is close."""
    names = [option for option in map(str, options) if _PLAIN.fullmatch(option)]
    close = difflib.get_close_matches(str(name)[:LONGEST], names, n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


def found(value: object, due: str) -> str:
    """Says what was found and what is due; text that looks like a number is explained."""
    if isinstance(value, str) and "number" in due and (hint := _number_as_text(value)):
        return f"{hint} ({due} is due)"
    return f"found {shown(value)}; {due} is due"


def _number_as_text(value: str) -> str:
    """Explains text that looks like a number, which is how YAML reads `3e-5`; else returns nothing."""
    if not _NUMBER.fullmatch(value) or not math.isfinite(number := float(value)):
        return ""
    return f"'{value}' is text in YAML; write {spelled(number)}"


def spelled(number: float) -> str:
    """Writes a number so that YAML reads it as one: `3.0e-5`, where Python's `3e-05` would be text."""
    if number == int(number) and abs(number) < 1e6:
        return str(int(number))
    mantissa, mark, exponent = repr(float(number)).partition("e")
    if not mark:
        return mantissa
    mantissa = mantissa if "." in mantissa else f"{mantissa}.0"
    return f"{mantissa}e{exponent[0]}{exponent[1:].lstrip('0')}"


def dotted(key: Key) -> str:
    """Writes a key path as `search.start[0].heads`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{_quoted(part)}" for part in key).removeprefix(".")


def _quoted(name: str) -> str:
    """Leaves a plain name as it is and quotes any other, so that a message stays on one line."""
    return name if _PLAIN_KEY.fullmatch(name) else repr(name)
