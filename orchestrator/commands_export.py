"""The command that writes a model for use elsewhere."""

import dataclasses
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator import records as trial_records
from orchestrator.console import Json, Name, Root, find_record, find_sweep, plainly, tell
from orchestrator.errors import SpecError

if TYPE_CHECKING:
    from orchestrator.folder import SweepFolder
    from orchestrator.records import TrialRecord


def register(app: typer.Typer) -> None:
    """Adds this command to the command line."""
    app.command("export")(export_model)


def export_model(  # noqa: PLR0913  the options of a command
    sweep: Name,
    trial: Annotated[str | None, typer.Argument(help="Default: the best within the budget.")] = None,
    form: Annotated[str, typer.Option("--format", help="compact, compatible, onnx or torch-export.")] = "compact",
    out: Annotated[Path | None, typer.Option("--out", help="Default: export/TRIAL in the sweep's folder.")] = None,
    with_code: Annotated[
        bool, typer.Option("--with-code", help="compact: the model's code too, for use without distilsweep.")
    ] = False,
    int8: Annotated[bool, typer.Option("--int8", help="onnx: a quantised graph too, measured on dev.")] = False,
    width: Annotated[
        float | None, typer.Option(help="Another sub-network of the trial's supernet: share of heads and neurons.")
    ] = None,
    depth: Annotated[float | None, typer.Option(help="The same: share of the layers.")] = None,
    ffn_width: Annotated[float | None, typer.Option(help="The same: share of the neurons alone.")] = None,
    layer_widths: Annotated[
        str | None, typer.Option(help="The same: a width for each layer of the supernet, e.g. 1,0.5,0.5.")
    ] = None,
    licence: Annotated[str, typer.Option("--licence", help="For the model card, e.g. apache-2.0.")] = "unknown",
    root: Root = None,
    as_json: Json = False,
) -> None:
    """Writes a trial's model as a folder for use elsewhere, reopened in a fresh process and compared."""
    from orchestrator.export import export
    from orchestrator.formats import Wanted
    from orchestrator.subnets import Point, subnet_record

    wanted = Wanted(format=form, with_code=with_code, int8=int8, licence=licence)
    point = Point(width=width, depth=depth, ffn_width=ffn_width, layer_widths=_shares(layer_widths))
    folder = find_sweep(sweep, root)
    with plainly(), tempfile.TemporaryDirectory(prefix="distilsweep-") as place:
        record = _asked_for(folder, trial)
        if point:
            record = subnet_record(folder, record, point, Path(place))
        done = export(folder, record, out, wanted)
    tell(as_json, dataclasses.asdict(done), done.lines())


def _shares(text: str | None) -> tuple[float, ...]:
    """Numbers with commas between them."""
    try:
        return tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise SpecError([f"--layer-widths: found {text!r}; allowed are numbers with commas, e.g. 1,0.5,0.5"]) from None


def _asked_for(folder: "SweepFolder", trial: str | None) -> "TrialRecord":
    """The trial that was named, or the best one within the sweep's budget."""
    from orchestrator.changes import stored_plan
    from orchestrator.front import best_within

    if trial is not None:
        return find_record(folder, trial)
    winner = best_within(trial_records.read(folder), stored_plan(folder).get("budget", {}))
    if winner is None:
        raise SpecError([f"{folder.path}: no finished trial is within the budget; name a trial"])
    return winner
