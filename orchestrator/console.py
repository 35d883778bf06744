"""What all commands share: how they find a sweep, how they answer, how a complaint becomes one line."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from orchestrator import records as trial_records
from orchestrator.errors import SpecError
from orchestrator.folder import SweepFolder, default_root
from orchestrator.records import TrialRecord
from orchestrator.wording import shown

Name = Annotated[str, typer.Argument(help="A sweep's name, or its sweep file.")]
Root = Annotated[
    Path | None, typer.Option("--folder", help="Where sweeps are kept; default $DISTILSWEEP_HOME or ./sweeps.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of words.")]


def tell(as_json: bool, payload: object, lines: Sequence[str]) -> None:
    """Prints a result for people or for machines."""
    typer.echo(json.dumps(payload, indent=1, sort_keys=True, default=str) if as_json else "\n".join(lines))


def progress(as_json: bool) -> Callable[[str], None]:
    """What takes lines about the progress: standard error, which leaves standard output to the result; or nobody."""

    def say(line: str) -> None:
        if not as_json:
            typer.echo(f"{time.strftime('%H:%M:%S')} {line}", err=True)

    return say


def read_columns(pairs: Sequence[str] | None) -> dict[str, str] | None:
    """Reads what `--column` says: `text=NAME` and its like.

    Raises:
        SpecError: no pair of a key and a name.
    """
    split = [pair.partition("=") for pair in pairs or ()]
    if wrong := ["".join(parts) for parts in split if not all(parts)]:
        raise SpecError([f"--column: found {shown(wrong[0])}; allowed: text=NAME, text_pair=NAME, label=NAME"])
    return {key: name for key, _, name in split} or None


def find_sweep(name: str, root: Path | None) -> SweepFolder:
    """The folder of a sweep given by name or by its file.

    Raises:
        SpecError: there is no such sweep; the message lists those there are.
    """
    root = root or default_root()
    if name.endswith((".yaml", ".yml")):
        from orchestrator.spec import load_spec

        name = load_spec(Path(name)).name
    folder = SweepFolder(root, name)
    if not folder.path.is_dir():
        known = sorted(path.parent.name for path in root.glob("*/plan.json"))
        raise SpecError([f"{root}: no sweep named {name!r}; there are: {', '.join(known) or 'none'}"])
    return folder


def find_record(folder: SweepFolder, trial: str) -> TrialRecord:
    """The record of one trial of a sweep."""
    found = trial_records.read(folder)
    for record in found:
        if record.trial == trial:
            return record
    raise SpecError([f"{folder.path}: no trial {trial!r}; there are: {', '.join(r.trial for r in found) or 'none'}"])


@contextmanager
def plainly() -> Iterator[None]:
    """Turns what the data or a checkpoint is accused of into one line; such a complaint is no crash.

    Raises:
        SpecError: in place of a ValueError or OSError.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        raise SpecError([" ".join(str(error).split())]) from error
