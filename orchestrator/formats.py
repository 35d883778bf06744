"""The four forms of an exported model: what is written for each, how it is opened again, what it costs."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from methods.parts import standalone
from methods.parts.bert import Bert
from methods.parts.card import OWN
from methods.parts.checkpoint import TOKENIZER, card_of, save
from methods.parts.files import read_json
from methods.parts.stock import stock
from orchestrator import figures, graphs
from orchestrator.errors import SpecError
from orchestrator.records import write_text
from orchestrator.reopen import CODE, ONNX, PROGRAM
from orchestrator.wording import listed, nearest

COMPACT, COMPATIBLE, TORCH = "compact", "compatible", "torch-export"
FORMATS = (COMPACT, COMPATIBLE, "onnx", TORCH)
"""`compact` as small as it is; `compatible` for stock transformers; the others are graphs without Python code."""

UNKNOWN = "unknown"
"""The licence of a model of which nobody said one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What to export, as the user asked for it."""

    format: str = COMPACT
    """One of `FORMATS`."""
    with_code: bool = False
    """Compact: whether to put the model's code beside it, for machines without this package."""
    int8: bool = False
    """ONNX: whether to add a quantised graph, and to measure it on dev."""
    licence: str = UNKNOWN
    """For the model card, e.g. `apache-2.0`."""

    def __post_init__(self) -> None:
        """Refuse what does not exist or does not go together, all at once."""
        problems = []
        if self.format not in FORMATS:
            near = nearest(self.format, FORMATS)
            problems.append(f"export: --format: found {self.format!r}; allowed: {listed(FORMATS)}{near}")
        if self.with_code and self.format != COMPACT:
            problems.append(f"export: --with-code: found --format {self.format}; allowed with compact")
        if self.int8 and self.format != "onnx":
            problems.append(f"export: --int8: found --format {self.format}; allowed with onnx")
        if not self.licence.strip() or "\n" in self.licence:
            problems.append(f"export: --licence: found {self.licence!r}; allowed is a name, e.g. apache-2.0")
        if problems:
            raise SpecError(problems)

    @property
    def suffix(self) -> str:
        """What the default folder's name ends with: nothing for `compact`."""
        return "" if self.format == COMPACT else f"-{self.format}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """A folder that was written and is still to be proved."""

    way: str
    """How it is opened, a key of `reopen.WAYS`."""
    file: str
    """The file that holds the weights."""
    params: int
    """Parameters stored in it."""
    notes: tuple[str, ...] = ()
    """One line each, for the user."""


def write(wanted: Wanted, model: Bert, source: Path, target: Path) -> Written:
    """Writes a trial's model in the wanted form, with its tokenizer, into a folder that is not there yet.

    Args:
        wanted: the form.
        model: the trained model.
        source: the folder that it was loaded from.
        target: the folder to write.

    Raises:
        ValueError: a stock BERT cannot hold the model.
        SpecError: a package is missing.
    """
    if wanted.format == COMPACT:
        return _compact(model, source, target, with_code=wanted.with_code)
    if wanted.format == COMPATIBLE:
        return _compatible(model, source, target)
    if wanted.format == "onnx":
        graphs.check_onnx()
    target.mkdir(parents=True)
    for name in (*TOKENIZER, "config.json"):
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    params = model.layout.params()
    if wanted.format == TORCH:
        graphs.write_program(model, target)
        return Written(way=TORCH, file=PROGRAM, params=params)
    graphs.write_onnx(model, target)
    return Written(way="onnx", file=ONNX, params=params)


def _compact(model: Bert, source: Path, target: Path, *, with_code: bool) -> Written:
    """The folder as training left it; a layout that stock transformers knows is stored as stock already."""
    shutil.copytree(source, target)
    config, file, params = read_json(target / "config.json"), "model.safetensors", model.layout.params()
    if config["model_type"] != OWN:
        notes = ("--with-code: not needed, stock transformers opens this layout",) if with_code else ()
        return Written(way="stock", file=file, params=params, notes=notes)
    if not with_code:
        return Written(way="compact", file=file, params=params)
    write_text(target / CODE, standalone.source())
    write_text(target / "config.json", json.dumps({**config, "auto_map": standalone.AUTO_MAP}, indent=2) + "\n")
    said = f"{CODE} lies beside it: machines without distilsweep open it if they allow code from the folder to run"
    return Written(way="code", file=file, params=params, notes=(said,))


def _compatible(model: Bert, source: Path, target: Path) -> Written:
    """A `BertForSequenceClassification` with zeros where the model is smaller."""
    card = card_of(source)
    filled = stock(model)
    tokenizer = source if any((source / name).is_file() for name in TOKENIZER) else None
    save(filled, target, tokenizer=tokenizer, labels=card.labels or None)
    old, new = model.layout, filled.layout
    notes = (
        f"{figures.count(old.params())} parameters become {figures.count(new.params())}, "
        f"{figures.cost('bytes', old.bytes())} become {figures.cost('bytes', new.bytes())}",
        f"it runs like its shape: {new.describe()}",
    )
    same = ("nothing is lost: this layout is a stock one already",)
    return Written(way="stock", file="model.safetensors", params=new.params(), notes=same if new == old else notes)
