"""Uniform and per-layer widths of DynaBERT's supernets in one picture: one panel a sweep, and what per-layer brings.

Run as `python benchmarks/pictures/subnet_fronts.py FOLDER SWEEP [SWEEP ...] --out fronts.svg` on sweeps of
`search_spaces/dynabert.yaml`, one for each seed of the supernet. Sub-networks are chosen by their score on one half of
dev; every number in picture and table is of the other half. The table asks at every uniform choice of the front: how
much better is the best per-layer choice that is no larger? The mean over the front's points is one number a sweep.
"""

import argparse
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from orchestrator import records
from orchestrator.folder import SweepFolder
from orchestrator.front import best_within, comparable, front, value
from orchestrator.records import TrialRecord

AIMS = {"score": "max", "params": "min"}
KINDS = {"uniform": ("tab:blue", "o"), "per layer": ("tab:orange", "s")}


def by_kind(folder: SweepFolder) -> dict[str, list[TrialRecord]]:
    """The finished sub-networks of a sweep."""
    found = comparable(records.read(folder), AIMS)
    return {kind: [item for item in found if item.sample["per_layer"] == (kind != "uniform")] for kind in KINDS}


def gains(kinds: Mapping[str, Sequence[TrialRecord]]) -> list[tuple[TrialRecord, TrialRecord]]:
    """Each uniform choice of the front with the best per-layer choice of at most its size, where there is one."""
    pairs = []
    for uniform in front(kinds["uniform"], AIMS):
        rival = best_within(kinds["per layer"], {"params": value(uniform, "params")})
        if rival is not None:
            pairs.append((uniform, rival))
    return pairs


def table(name: str, kinds: Mapping[str, Sequence[TrialRecord]]) -> float:
    """Prints a sweep's pairs; returns the mean gain on the other half of dev."""
    differences = []
    for uniform, rival in gains(kinds):
        difference = value(rival, "held") - value(uniform, "held")
        differences.append(difference)
        shown = (
            f"{item.trial} {value(item, 'params') / 1e6:.2f}M {value(item, 'held'):.4f}" for item in (uniform, rival)
        )
        print(f"{name}: uniform {', per layer '.join(shown)}: {difference:+.4f}")
    return statistics.mean(differences)


def panel(axes: Axes, name: str, kinds: Mapping[str, Sequence[TrialRecord]]) -> None:
    """Draws all sub-networks pale, and the choices of each kind as a staircase with two standard errors."""
    for kind, (colour, mark) in KINDS.items():
        points, chosen = kinds[kind], front(kinds[kind], AIMS)
        axes.scatter(
            [value(item, "params") / 1e6 for item in points],
            [value(item, "held") for item in points],
            s=14,
            color=colour,
            marker=mark,
            alpha=0.25,
            linewidths=0,
        )
        axes.errorbar(
            [value(item, "params") / 1e6 for item in chosen],
            [value(item, "held") for item in chosen],
            yerr=[2 * value(item, "held_se") for item in chosen],
            color=colour,
            marker=mark,
            markersize=5,
            drawstyle="steps-post",
            elinewidth=0.8,
            capsize=2,
            label=f"{kind}: {len(chosen)} of {len(points)} chosen",
        )
    axes.set_title(name)
    axes.set_xlabel("parameters, millions")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize="small")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of the sweeps")
    parser.add_argument("sweeps", nargs="+", help="their names")
    parser.add_argument("--out", type=Path, required=True, help="the picture, .svg or .png")
    given = parser.parse_args()
    sweeps = {name: by_kind(SweepFolder(given.folder, name)) for name in given.sweeps}
    means = [table(name, kinds) for name, kinds in sweeps.items()]
    error = statistics.stdev(means) / len(means) ** 0.5 if len(means) > 1 else float("nan")
    print(f"per layer less uniform at no larger size: {statistics.mean(means):+.4f}, standard error {error:.4f}")
    figure = Figure(figsize=(4.6 * len(sweeps), 4.2), layout="constrained")
    panels = figure.subplots(1, len(sweeps), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (name, kinds) in zip(panels, sweeps.items(), strict=True):
        panel(axes, name, kinds)
    panels[0].set_ylabel("accuracy on the half of dev that chose nothing")
    figure.savefig(given.out)


if __name__ == "__main__":
    main()
