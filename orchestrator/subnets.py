"""Another sub-network of a trial's supernet, cut out and measured without a trial of its own."""

import dataclasses
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from methods.parts.checkpoint import card_of, save
from methods.parts.point import NUM_FIELDS
from methods.parts.run import LocalRun
from orchestrator.changes import stored_plan
from orchestrator.configs import build, load_method
from orchestrator.designs import layout_costs
from orchestrator.errors import SpecError
from orchestrator.evaluation import again
from orchestrator.folder import SweepFolder
from orchestrator.records import TrialRecord
from orchestrator.subjects import model_folder

SUPERNET = "supernet"
"""What a method that trains one notes: the artifact's name in the store."""
OWN_WIDTHS = tuple(f"width_{number}" for number in range(1, NUM_FIELDS + 1))


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """A sub-network as the user names it; what is None is the trial's own."""

    width: float | None = None
    ffn_width: float | None = None
    depth: float | None = None
    layer_widths: tuple[float, ...] = ()

    def __bool__(self) -> bool:
        """Whether anything is named."""
        return self != Point()

    @property
    def name(self) -> str:
        """For a folder's name: `width-0.5-depth-0.67`."""
        named = {name.replace("_", "-"): value for name, value in dataclasses.asdict(self).items() if value}
        return "-".join(f"{name}-{_short(value)}" for name, value in named.items())

    def over(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """A trial's values with these in their place; widths that are named replace those of all layers."""
        values, wide = dict(config), self.width is not None or bool(self.layer_widths)
        if wide:
            values |= {"per_layer": False, "layer_widths": list(self.layer_widths), **dict.fromkeys(OWN_WIDTHS)}
        if wide or self.ffn_width is not None:  # neurons follow the new heads, unless they are named too
            values |= {"ffn_width": self.ffn_width, "layer_ffn_widths": []}
        named = {"width": self.width, "depth": self.depth}
        return {**values, **{name: value for name, value in named.items() if value is not None}}


def _short(value: float | tuple[float, ...]) -> str:
    return "+".join(f"{share:.3g}" for share in (value if isinstance(value, tuple) else (value,)))


def subnet_record(folder: SweepFolder, record: TrialRecord, point: Point, place: Path) -> TrialRecord:
    """Cuts a sub-network out of the supernet of a trial into `place`, and measures it on dev.

    A trial that fine-tunes its sub-network afterwards has other weights; here they are the supernet's own.

    Returns:
        The trial's record with the sub-network's model, layout, costs, values and metrics. It is written nowhere.

    Raises:
        SpecError: the trial has no supernet, it is not in the store any more, or was not trained for this sub-network.
    """
    name = record.notes.get(SUPERNET)
    if name is None:
        raise SpecError(
            [f"{record.trial}: found a trial of {record.method}; --width and --depth take a trial that has a supernet"]
        )
    stored = folder.store / str(name)
    if not (stored / "manifest.json").is_file():
        raise SpecError([f"{record.trial}: its supernet is not at {stored} any more; run the sweep's trial again"])
    values = point.over(record.config) | {"finetune_epochs": 0.0}
    try:
        method = load_method(record.method)
        model = importlib.import_module(f"methods.{record.method}").take(build(method, values), stored)
    except ValueError as error:
        raise SpecError([f"{record.trial}: {' '.join(str(error).split())}"]) from error
    plan, trained = stored_plan(folder), model_folder(folder, record)
    save(model, place, tokenizer=trained, labels=card_of(trained).labels or None)
    cut = dataclasses.replace(record, model=str(place), config=values, layout=model.layout.to_json())
    run = LocalRun(folder.path, store=folder.store, device="cpu")
    return dataclasses.replace(
        cut,
        trial=f"{record.trial}-{point.name}",
        key="",
        metrics=again(folder, cut, run),
        costs=layout_costs(model.layout, plan["length"]),
    )
