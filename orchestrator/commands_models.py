"""The commands that work on stored models: measure them, ask them, import those of the published programs."""

import dataclasses
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator import records as trial_records
from orchestrator.console import Json, Root, find_record, find_sweep, plainly, read_columns, tell
from orchestrator.errors import SpecError
from orchestrator.folder import SweepFolder

if TYPE_CHECKING:
    from methods.parts.run import LocalRun
    from orchestrator.records import TrialRecord
    from orchestrator.subjects import Data, Subject

Model = Annotated[str, typer.Argument(metavar="SWEEP|FOLDER", help="A sweep, or the folder of any BERT checkpoint.")]
Trial = Annotated[str | None, typer.Argument(help="A trial of the sweep.")]
DataPath = Annotated[
    Path | None,
    typer.Option("--data", help="A task's folder, or one CSV, TSV, JSONL or Parquet file; default: the sweep's."),
]
TaskName = Annotated[str | None, typer.Option("--task", help="For a folder: the task, e.g. sst2.")]
Columns = Annotated[
    list[str] | None, typer.Option("--column", help="For tables: text=NAME, text_pair=NAME, label=NAME; repeatable.")
]
Length = Annotated[int | None, typer.Option("--max-length", help="Tokens a row is cut to; default: the task's.")]


def register(app: typer.Typer) -> None:
    """Adds these commands to the command line."""
    app.command()(evaluate)
    app.command()(predict)
    app.command("import")(import_model)


def evaluate(  # noqa: PLR0913  the options of a command
    model: Model,
    trial: Trial = None,
    every: Annotated[bool, typer.Option("--all", help="All models of the sweep, the teacher too.")] = False,
    best: Annotated[int, typer.Option(min=1, help="Without a trial: this many of the best.")] = 3,
    table: Annotated[Path | None, typer.Option("--csv", help="Also write the table to this file.")] = None,
    split: Annotated[
        str, typer.Option(help="Any labelled split; MNLI's mismatched rows are measured with it.")
    ] = "dev",
    data: DataPath = None,
    task: TaskName = None,
    column: Columns = None,
    max_length: Length = None,
    root: Root = None,
    as_json: Json = False,
) -> None:
    """Measures stored models: every metric with its standard error."""
    from orchestrator import evaluation, subjects

    asked = _data(data, task, column, max_length)
    with plainly():
        found: dict[str, float] = {}
        if subjects.is_checkpoint(model):
            _no_trial(model, trial)
            record, asked_models, place = None, [subjects.folder_subject(Path(model), asked, split)], None
        else:
            place = find_sweep(model, root)
            record, records = _chosen(place, trial, every=every, best=best)
            asked_models = subjects.trial_subjects(place, records, asked, split)
        with _world(place) as run:
            if record is not None and place is not None and split == "dev" and asked == subjects.Data():
                found = evaluation.again(place, record, run)
            measured = [row for subject in asked_models for row in evaluation.evaluate(subject, split, run)]
        if table is not None:
            trial_records.write_text(table, evaluation.as_csv(measured))
    recorded = dict(record.metrics) if record else {}
    lines = [
        f"{name}: {number:.6f} (recorded {recorded.get(name, float('nan')):.6f})" for name, number in found.items()
    ]
    payload = {"trial": trial, "found": found, "recorded": recorded, "measured": [row.row() for row in measured]}
    written = [f"table: {table}"] if table else []
    tell(as_json, payload, [*lines, *([""] if lines else []), *evaluation.table_lines(measured), *written])


def predict(  # noqa: PLR0913  the options of a command
    model: Model,
    trial: Annotated[str | None, typer.Argument(help="A trial of the sweep; default: its winner.")] = None,
    data: DataPath = None,
    out: Annotated[Path | None, typer.Option("--out", help="Default: predictions/NAME here.")] = None,
    form: Annotated[str, typer.Option("--format", help="auto, glue, original, csv or jsonl.")] = "auto",
    split: Annotated[str, typer.Option(help="The split to answer.")] = "test",
    task: TaskName = None,
    column: Columns = None,
    max_length: Length = None,
    root: Root = None,
    as_json: Json = False,
) -> None:
    """Writes a model's answers: GLUE submission files, the published programs' files, or a table with probabilities."""
    from orchestrator import subjects
    from orchestrator.predict import write_predictions

    asked = _data(data, task, column, max_length)
    with plainly():
        place: SweepFolder | None = None
        if subjects.is_checkpoint(model):
            _no_trial(model, trial)
            subject = subjects.folder_subject(Path(model), asked, split)
        else:
            place = find_sweep(model, root)
            subject = _trial_or_winner(place, trial, asked, split)
        target = out or Path("predictions") / (f"{place.name}-{subject.name}" if place else subject.name)
        with _world(place) as run:
            done = write_predictions(subject, split, form, target, run)
    payload = {"model": subject.name, "split": split, **dataclasses.asdict(done)}
    tell(as_json, payload, [f"{subject.name}: {split} of {subject.task.name}", *done.lines()])


def import_model(  # noqa: PLR0913  the options of a command
    path: Annotated[Path, typer.Argument(help="Folder of a published checkpoint, or its pytorch_model.bin.")],
    out: Annotated[Path, typer.Option("--out", help="A new folder.")],
    kind: Annotated[str, typer.Option(help="auto, rosita, tinybert, hsk, lad, dynabert or wid.")] = "auto",
    head: Annotated[
        str | None,
        typer.Option(help="relu (what ROSITA, TinyBERT and HSK distil with; their default) or plain (all others)."),
    ] = None,
    task: Annotated[str | None, typer.Option(help="The GLUE task whose classes the outputs are, e.g. mnli.")] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="Folder of the tokenizer; default: the checkpoint's.")] = None,
    width: Annotated[
        float | None, typer.Option(help="dynabert: the share of heads and neurons to keep, e.g. 0.5; default: all.")
    ] = None,
    depth: Annotated[float | None, typer.Option(help="dynabert: the share of layers to keep; default: all.")] = None,
    keep: Annotated[
        str, typer.Option(help="dynabert: first or last layer of each group, as the supernet was trained.")
    ] = "first",
    as_json: Json = False,
) -> None:
    """Converts a checkpoint of the published ROSITA, TinyBERT, HSK, LAD, DynaBERT or WID code; nothing in it is run."""
    from orchestrator.imports import Source, import_checkpoint

    with plainly():
        source = Source(
            path=path, kind=kind, head=head, task=task, tokenizer=tokenizer, width=width, depth=depth, keep=keep
        )
        done = import_checkpoint(source, out)
    tell(as_json, dataclasses.asdict(done), done.lines())


def _data(path: Path | None, task: str | None, columns: list[str] | None, max_length: int | None) -> "Data":
    """What the options say of the data."""
    from orchestrator.subjects import Data

    return Data(path=path, task=task, columns=read_columns(columns), max_length=max_length)


def _no_trial(model: str, trial: str | None) -> None:
    """Refuses a trial beside a checkpoint's folder."""
    if trial is not None:
        raise SpecError([f"{model}: is a checkpoint's folder and has no trials; leave out {trial!r}"])


def _chosen(
    place: SweepFolder, trial: str | None, *, every: bool, best: int
) -> "tuple[TrialRecord | None, list[TrialRecord]]":
    """The one trial that was named, if one was, and all that are to be measured."""
    from orchestrator import evaluation

    if trial is not None and every:
        raise SpecError([f"{trial}: found a trial and --all; allowed is one of them"])
    if trial is not None:
        record = find_record(place, trial)
        return record, [record]
    records = trial_records.read(place)
    chosen = evaluation.with_models(place, records)
    chosen = chosen if every else evaluation.best(chosen, best)
    if not chosen:
        raise SpecError([f"{place.path}: no finished trial has a model yet"])
    return None, chosen


def _trial_or_winner(place: SweepFolder, trial: str | None, data: "Data", split: str) -> "Subject":
    """The trial that was named, or the best one within the sweep's budget."""
    from orchestrator.changes import stored_plan
    from orchestrator.front import best_within
    from orchestrator.subjects import trial_subjects

    if trial is not None:
        record = find_record(place, trial)
    else:
        winner = best_within(trial_records.read(place), stored_plan(place).get("budget", {}))
        if winner is None:
            raise SpecError([f"{place.path}: no finished trial is within the budget; name a trial"])
        record = winner
    return trial_subjects(place, [record], data, split)[0]


@contextmanager
def _world(place: SweepFolder | None) -> "Iterator[LocalRun]":
    """This process; tokens are kept in the sweep's store, or thrown away.

    A sweep's models are measured on what they were trained on, so that the recorded numbers come out again; a folder's
    on the GPU if there is one.
    """
    from methods.parts.run import LocalRun
    from orchestrator.changes import stored_plan
    from orchestrator.evaluation import device

    if place is not None:
        gpus = stored_plan(place)["spec"].get("resources", {}).get("gpus", 0)
        yield LocalRun(place.path, store=place.store, device=device() if gpus else "cpu")
        return
    with tempfile.TemporaryDirectory(prefix="distilsweep-") as folder:
        yield LocalRun(Path(folder), device=device())
