"""The command line: each command reads one sweep file or one sweep name, does one thing, and tells it in words or JSON.

Exit codes: 0 done; 1 it failed; 2 the files or the request are wrong; 3 the sweep ended without a model within the
budget; 130 interrupted (run the same command again to continue). Modules that load torch, Ray or MLflow are imported
by the command that needs them, so that `--help`, `methods` and `status` answer at once.
"""

import logging
import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

import methods
from orchestrator import records as trial_records
from orchestrator.commands_augment import register as register_augment
from orchestrator.commands_export import register as register_export
from orchestrator.commands_models import register as register_models
from orchestrator.commands_preprocess import register as register_preprocess
from orchestrator.console import Json, Name, Root, find_sweep, tell
from orchestrator.errors import INTERRUPTED, SpecError, SweepError
from orchestrator.folder import SweepFolder, default_root
from orchestrator.wording import nearest

if TYPE_CHECKING:
    from orchestrator.plan import Plan

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__.split("\n")[0]
)

Spec = Annotated[Path, typer.Argument(help="A sweep file.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="key=value pairs that replace values of the file.")]
ClusterFile = Annotated[Path | None, typer.Option("--cluster", help="A cluster file; default: this machine.")]


def shipped(package: str) -> dict[str, Path]:
    """The YAML files that came with the package, by name."""
    files = (Path(str(item)) for item in resources.files(package).iterdir())
    return {path.stem: path for path in sorted(files) if path.suffix == ".yaml"}


@app.command()
def doctor(root: Root = None, as_json: Json = False) -> None:
    """Checks that this machine can run sweeps, and says what to do where it cannot."""
    from orchestrator.doctor import check

    rows = check(root or default_root())
    lines = [
        f"{'ok ' if row.ok else 'NO '} {row.name}: {row.found}{'' if row.ok else ' -> ' + row.cure}" for row in rows
    ]
    tell(as_json, [{"name": r.name, "found": r.found, "ok": r.ok, "cure": r.cure} for r in rows], lines)
    if not all(row.ok for row in rows):
        raise typer.Exit(1)


@app.command("methods")
def list_methods(as_json: Json = False) -> None:
    """Lists the compression methods."""
    names = methods.available()
    tell(as_json, names, names)


@app.command()
def init(
    name: str,
    target: Annotated[Path | None, typer.Argument()] = None,
    data: Annotated[
        bool,
        typer.Option("--data", help="Fetch a GLUE task (or all) as official files; default folder: glue."),
    ] = False,
) -> None:
    """Copies a shipped sweep file here, to be edited; with --data, fetches a GLUE task from the hub."""
    if data:
        fetch_data(name, target or Path("glue"))
        return
    files = {**shipped("clusters"), **shipped("search_spaces")}
    if name not in files:
        raise SpecError(
            [f"init: no shipped file {name!r}; there are: {', '.join(sorted(files))}{nearest(name, files)}"]
        )
    target = target or Path(f"{name}.yaml")
    if target.exists():
        raise SpecError([f"{target}: exists already; name another file"])
    shutil.copyfile(files[name], target)
    typer.echo(f"{target}: edit it, then `distilsweep plan {target}`")


def fetch_data(name: str, target: Path) -> None:
    """Fetches GLUE's official files, and tells which."""
    from methods.parts.official import RequestError, fetch

    try:
        for line in fetch(name, target):
            typer.echo(line)
    except RequestError as error:
        raise SpecError([f"init: {error}"]) from None
    except (ValueError, OSError) as error:
        raise SweepError("init: " + " ".join(str(error).split())) from error


@app.command()
def validate(spec: Spec, overrides: Overrides = None, cluster: ClusterFile = None, as_json: Json = False) -> None:
    """Checks a sweep file with its data, teacher and cluster, and tells every problem at once."""
    plan = planned(spec, overrides, cluster)
    tell(as_json, {"name": plan.spec.name, "hash": plan.hash()}, [f"{spec}: in order ({plan.spec.name})"])


@app.command("plan")
def show_plan(
    spec: Spec, overrides: Overrides = None, root: Root = None, cluster: ClusterFile = None, as_json: Json = False
) -> None:
    """Says what a sweep will do, and what cannot fit, before anything is spent."""
    from orchestrator.plantext import describe

    plan = planned(spec, overrides, cluster, root)
    tell(as_json, plan.to_json(), describe(plan))


def planned(spec: Path, overrides: list[str] | None, cluster: Path | None, root: Path | None = None) -> "Plan":
    """The plan of a sweep file, for a folder of sweeps."""
    from orchestrator.cluster import load_cluster
    from orchestrator.plan import make_plan
    from orchestrator.spec import load_spec

    return make_plan(load_spec(spec, overrides or ()), load_cluster(cluster), root=root)


@app.command()
def run(
    spec: Spec,
    overrides: Overrides = None,
    root: Root = None,
    cluster: ClusterFile = None,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="Go on although the file has changed.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Runs a sweep, or continues it; then writes the report and exports the winner."""
    from orchestrator.finish import run_to_the_end

    plan = planned(spec, overrides, cluster, root)
    folder = SweepFolder((root or default_root()).absolute(), plan.spec.name)
    ended = run_to_the_end(plan, folder, accept_changes=accept_changes, quiet=as_json)
    tell(as_json, ended.to_json(), ended.lines())
    if ended.exit_code:
        raise typer.Exit(ended.exit_code)


@app.command()
def status(sweep: Name, root: Root = None, as_json: Json = False) -> None:
    """Says what a sweep is doing: running, waiting and why, failed and why, done, the front so far."""
    from orchestrator.status import describe_status, read_status

    found = read_status(find_sweep(sweep, root))
    tell(as_json, found, describe_status(found))


@app.command()
def stop(sweep: Name, root: Root = None) -> None:
    """Asks a running sweep to end in good order; `run` continues it later."""
    folder = find_sweep(sweep, root)
    folder.file("stop").touch()
    typer.echo(f"{folder.name}: asked to stop; running trials keep their checkpoints")


@app.command()
def report(sweep: Name, root: Root = None, as_json: Json = False) -> None:
    """Writes report.html and report.md anew."""
    from orchestrator.changes import stored_plan
    from orchestrator.report import write_report

    folder = find_sweep(sweep, root)
    html, markdown = write_report(folder, stored_plan(folder), trial_records.read(folder))
    tell(as_json, {"html": html, "markdown": markdown}, [f"report: {html}", f"as text: {markdown}"])


@app.command("pick")
def pick_model(
    sweep: Name,
    rule: Annotated[str, typer.Option(help="best, noise, knee or smallest.")] = "best",
    budget: Annotated[list[str] | None, typer.Option(help="Upper limits, e.g. params=15M; repeatable.")] = None,
    within: Annotated[float | None, typer.Option(help="For smallest: score below the teacher's, e.g. 0.02.")] = None,
    root: Root = None,
    as_json: Json = False,
) -> None:
    """Chooses one model of a sweep, and says why."""
    from orchestrator.pick import pick, read_limits

    choice = pick(trial_records.read(find_sweep(sweep, root)), rule, read_limits(budget or ()), within)
    tell(as_json, choice.to_json(), choice.lines())


@app.command()
def ui(
    sweep: Name, port: Annotated[int | None, typer.Option(help="Default: a free one.")] = None, root: Root = None
) -> None:
    """Starts MLflow on 127.0.0.1 and prints the address of the comparison of this sweep's runs."""
    from orchestrator.ui import show

    show(find_sweep(sweep, root), port)


register_models(app)
register_augment(app)
register_preprocess(app)
register_export(app)


def fail(lines: Sequence[str], exit_code: int) -> NoReturn:
    """Prints problems, one a line, and ends."""
    for line in lines:
        print(line, file=sys.stderr)
    leave(exit_code)


def leave(exit_code: int) -> NoReturn:
    """Ends the process with this exit code, and Ray's processes, if there still are any, with it.

    Where Ray could not be shut down because a thread still waits for it, Python's own end would shut it down, and Ray
    would now and then answer that thread by ending the process with exit code 1.
    """
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)
    sys.exit(exit_code)


def crash_log() -> Path:
    """Writes the traceback of the present exception to a file."""
    with tempfile.NamedTemporaryFile("w", prefix="distilsweep-", suffix=".log", delete=False, encoding="utf-8") as log:
        traceback.print_exc(file=log)
    return Path(log.name)


def main() -> None:
    """Runs the command line; a failure is one clear line and a non-zero exit code, its traceback goes to a file."""
    try:
        code = app(standalone_mode=False)  # what a command ended with by typer.Exit, or None
    except SweepError as error:
        fail(error.lines(), error.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except Exception as error:
        if hasattr(error, "format_message"):  # a complaint about the command line itself
            fail([f"distilsweep: {error.format_message()}; see distilsweep --help"], 2)
        first = next(iter(str(error).splitlines()), "") or type(error).__name__
        fail([f"distilsweep failed: {first} (traceback: {crash_log()})"], 1)
    if code == INTERRUPTED:
        fail(["interrupted; run the same command again to continue"], INTERRUPTED)
    leave(code or 0)
