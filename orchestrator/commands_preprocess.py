"""The command `preprocess`: a text cut into blocks of tokens once, for masked-LM training in any number of sweeps."""

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.console import Json, plainly, progress, tell


def register(app: typer.Typer) -> None:
    """Adds this command to the command line."""
    app.command()(preprocess)


def preprocess(  # noqa: PLR0913  the options of a command
    corpus: Annotated[Path, typer.Argument(help="UTF-8 text: one document a line, or blank lines between documents.")],
    tokenizer: Annotated[str, typer.Option(help="A BERT tokenizer: the folder of a checkpoint, or its hub name.")],
    out: Annotated[Path, typer.Option(help="The folder to write; a sweep file's corpus.data names it.")],
    length: Annotated[int, typer.Option(help="Tokens of a block, special tokens included.")] = 128,
    full_sentences: Annotated[
        bool, typer.Option("--full-sentences", help="Let a block go on with the next document where one ends.")
    ] = False,
    form: Annotated[str, typer.Option(help="lines: one document a line; sentences: blank lines between.")] = "auto",
    compat: Annotated[str | None, typer.Option(help="published: keep blocks without any word.")] = None,
    shard_bytes: Annotated[
        int | None, typer.Option(min=1, help="Text of a shard; default: 16 MiB, or a 64th of the file if that is more.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default: one for each CPU.")] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Throw earlier work and its result away.")] = False,
    cluster: Annotated[Path | None, typer.Option("--cluster", help="A cluster file; default: this machine.")] = None,
    as_json: Json = False,
) -> None:
    """Cuts a text into blocks of tokens for masked-LM training; run again, it goes on where it was."""
    from methods.parts.blockfiles import Cutting
    from orchestrator.cluster import load_cluster

    with plainly():
        cutting = Cutting(length=length, full_sentences=full_sentences, form=form, compat=compat)
    nodes = load_cluster(cluster)
    from orchestrator import preprocess as driver  # brings Ray, which no complaint has to wait for

    with plainly():
        folder = driver.tokenizer_folder(tokenizer)
        order = driver.Order(
            corpus=corpus, tokenizer=folder, cutting=cutting, out=out.resolve(), part_bytes=shard_bytes
        )
        done = driver.preprocess(order, nodes, workers=workers, restart=restart, say=progress(as_json))
    tell(as_json, done.to_json(), done.lines())
