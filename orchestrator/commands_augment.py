"""The command `augment`: a training set with words replaced by a masked LM and word vectors, for distillation."""

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.console import Json, plainly, progress, read_columns, tell


def register(app: typer.Typer) -> None:
    """Adds this command to the command line."""
    app.command()(augment)


def augment(  # noqa: PLR0913  the options of a command
    task: Annotated[str, typer.Argument(help="A GLUE task or boolq; any other name with a table of one's own.")],
    data: Annotated[Path, typer.Option(help="The training file, or the folder of the task.")],
    model: Annotated[str, typer.Option(help="A masked language model: a folder, or its name on the hub.")],
    vectors: Annotated[
        Path | None, typer.Option(help="Word vectors in GloVe's text form, for words of several pieces.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write; default: beside the training file.")] = None,
    variants: Annotated[int | None, typer.Option(help="Rounds N for a text; default: as published.")] = None,
    candidates: Annotated[int, typer.Option(help="Proposals M for a word.")] = 15,
    probability: Annotated[float, typer.Option(help="That a word is replaced in a round.")] = 0.4,
    seed: Annotated[int, typer.Option(help="Decides all draws.")] = 0,
    limit: Annotated[int | None, typer.Option(help="Training rows, a sample by seed as in a sweep file.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default: one for each GPU or CPU.")] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="Of one's own table: text=NAME, text_pair=NAME, label=NAME; repeatable.")
    ] = None,
    compat: Annotated[str | None, typer.Option(help="in-place: the published order of pairs.")] = None,
    one_file: Annotated[bool, typer.Option("--one-file", help="Write one file however many rows there are.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Throw earlier work and its result away.")] = False,
    cluster: Annotated[Path | None, typer.Option("--cluster", help="A cluster file; default: this machine.")] = None,
    as_json: Json = False,
) -> None:
    """Writes a training set in which words are replaced by likely others; run again, it goes on where it was."""
    from methods.parts.augmenting import OTHER_VARIANTS, VARIANTS, Augmentation
    from methods.parts.glue import find
    from orchestrator.augmentorder import Order, prepare
    from orchestrator.cluster import load_cluster

    entry = find(task)
    rounds = variants if variants is not None else VARIANTS.get(entry.name if entry else "", OTHER_VARIANTS)
    with plainly():
        job = prepare(
            Order(
                task=entry.name if entry else task,
                data=data,
                model=model,
                settings=Augmentation(
                    variants=rounds, candidates=candidates, probability=probability, seed=seed, compat=compat
                ),
                vectors=vectors,
                columns=read_columns(column),
                out=out,
                limit=limit,
                one_file=one_file,
            )
        )
    nodes = load_cluster(cluster)
    from orchestrator import augment as driver  # brings Ray, which no complaint has to wait for

    done = driver.augment(job, nodes, workers=workers, restart=restart, say=progress(as_json))
    tell(as_json, done.to_json(), done.lines())
