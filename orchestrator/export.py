"""A trial's model as a folder that is proved to load: written aside, reopened in a fresh process, compared, renamed."""

import dataclasses
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers

from methods.parts.checkpoint import load
from methods.parts.files import write_json
from orchestrator import proof
from orchestrator.errors import SpecError, SweepError
from orchestrator.exportcard import model_card
from orchestrator.folder import SweepFolder
from orchestrator.formats import Wanted, Written, write
from orchestrator.quantised import Quantised, quantise
from orchestrator.records import TrialRecord, write_text

TOLERANCE = 1e-5
"""Largest difference of logits allowed between the trained model and the reopened export."""

ABOUT = "exported.json"
"""What an export is and how it was proved; marks a folder that may be replaced by another export."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """An export that was reopened: where it is and how far its logits were from the trained model's."""

    path: Path
    format: str
    max_difference: float
    size_bytes: int
    """Of the file with the weights."""
    params: int
    notes: tuple[str, ...] = ()
    int8: Quantised | None = None

    def lines(self) -> list[str]:
        """The export for people."""
        proved = f"reopened in a fresh process, logits equal within {self.max_difference:.1e}"
        return [
            f"exported: {self.path} ({self.format}, {self.size_bytes / 1e6:.2f} MB, {proved})",
            *(f"  {note}" for note in self.notes),
            *(self.int8.lines() if self.int8 else []),
        ]


def export(
    folder: SweepFolder, record: TrialRecord, target: Path | None = None, wanted: Wanted | None = None
) -> Exported:
    """Writes a trial's model to `target` (default: `export/<trial>` of the sweep) and proves that it loads.

    Nothing stands under the target's name before the proof, and nothing is left where it fails.

    Raises:
        SweepError: the trial has no model, the target holds something else, or the reopened model answers differently.
        SpecError: what is wanted cannot be had of this model, or a package is missing.
    """
    wanted = wanted or Wanted()
    source = folder.path / record.model if record.model else None
    if source is None or not (source / "model.safetensors").is_file():
        raise SweepError(f"{record.trial}: no model is stored for it (status {record.status}); nothing to export")
    target = target or folder.path / "export" / f"{record.trial}{wanted.suffix}"
    _check_target(target)
    aside = target.with_name(f".{target.name}.{os.getpid()}.new")
    shutil.rmtree(aside, ignore_errors=True)
    aside.parent.mkdir(parents=True, exist_ok=True)
    try:
        done = _proved(folder, record, source, aside, wanted)
        _put(aside, target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return dataclasses.replace(done, path=target)


def _check_target(target: Path) -> None:
    """Refuses a place that holds something else than an earlier export."""
    ours = any((target / name).is_file() for name in (ABOUT, "config.json"))
    if target.exists() and not ours and (not target.is_dir() or any(target.iterdir())):
        raise SweepError(f"{target}: exists and is not an exported model; name another folder")


def _proved(folder: SweepFolder, record: TrialRecord, source: Path, aside: Path, wanted: Wanted) -> Exported:
    """Writes everything into `aside` and compares."""
    try:
        model = load(source)
        if not model.layout.labels:
            raise ValueError("found a model without classifier; allowed is one that answers a task")
        written = write(wanted, model, source, aside)
    except ValueError as error:
        raise SpecError([f"{record.trial}: {' '.join(str(error).split())}"]) from error
    difference = proof.difference(model, aside, written.way)
    if not difference <= TOLERANCE:
        raise SweepError(f"{record.trial}: reopened logits differ by {difference:.2g}; allowed is {TOLERANCE:g}")
    int8 = quantise(folder, record, aside) if wanted.int8 else None
    if int8:
        proof.difference(model, aside, "int8")  # that it opens; how far it is off is what int8 says
    write_text(aside / "README.md", model_card(folder, record, wanted, written))
    done = Exported(
        path=aside,
        format=wanted.format,
        max_difference=difference,
        size_bytes=(aside / written.file).stat().st_size,
        params=written.params,
        notes=written.notes,
        int8=int8,
    )
    _write_about(folder, record, wanted, written, done)
    return done


def _write_about(folder: SweepFolder, record: TrialRecord, wanted: Wanted, written: Written, done: Exported) -> None:
    """Puts what was done beside the model, for machines."""
    write_json(
        done.path / ABOUT,
        {
            **dataclasses.asdict(wanted),
            **{key: value for key, value in dataclasses.asdict(done).items() if key != "path"},
            "sweep": folder.name,
            "trial": record.trial,
            "key": record.key,
            "file": written.file,
            "tolerance": TOLERANCE,
            "shapes": [list(shape) for shape in proof.SHAPES],
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    )


def _put(aside: Path, target: Path) -> None:
    """Gives a proved folder its name; an earlier export there goes only when the new one stands."""
    before = target.with_name(f".{target.name}.{os.getpid()}.old")
    shutil.rmtree(before, ignore_errors=True)
    if target.exists():
        target.rename(before)
    aside.rename(target)
    shutil.rmtree(before, ignore_errors=True)
