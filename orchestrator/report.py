"""A sweep's report: one static HTML file that helps to choose, and the same findings as Markdown.

The page needs no network and no library (20 kB and 1 kB a trial), so it opens at once, works offline and inside
MLflow's artifact viewer. Whatever comes from users is escaped, and a content security policy admits the page's own
script only, by its hash.
"""

import base64
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from orchestrator import figures
from orchestrator.designs import KNOWLEDGE
from orchestrator.findings import (
    Findings,
    Table,
    commands,
    facts,
    failures,
    findings,
    optimism,
    other_half,
    progress,
    refusals,
    side_by_side,
    stops,
    varying,
    verdict,
)
from orchestrator.folder import SweepFolder
from orchestrator.front import value
from orchestrator.published import Published, published
from orchestrator.records import TrialRecord, write_text

LEGEND = (
    "Whiskers are two standard errors on the search half of dev; a finished trial on the front has a rim. Trials "
    "without a comparable score stand below the axis at the size they had or would have had. Click a mark to find its "
    "row, a name above to hide its kind."
)
MARKED = (
    "Dotted lines are the sizes of published architectures on this teacher's vocabulary, not results of this sweep; "
    "their papers' own scores, on other splits and devices, appear on pointing at a name."
)


def write_report(folder: SweepFolder, plan: Mapping[str, Any], records: Sequence[TrialRecord]) -> tuple[Path, Path]:
    """Writes `report.html` and `report.md` of a sweep, finished or not, and returns their paths.

    Args:
        folder: The sweep's folder.
        plan: The stored plan (`plan.json`).
        records: All records so far, the teacher's among them.
    """
    found = findings(plan, records)
    html, markdown = folder.file("report.html"), folder.file("report.md")
    write_text(html, to_html(found))
    write_text(markdown, to_markdown(found))
    return html, markdown


def to_html(found: Findings) -> str:
    """The page."""
    script = resources.files("orchestrator").joinpath("report_chart.js").read_text(encoding="utf-8")
    marks = published(found.teacher_layout)
    parts = {
        "name": escape(found.name),
        "digest": "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "facts": escape(facts(found)),
        "verdict": escape(verdict(found)),
        "progress": escape(progress(found)),
        "legend": escape(f"{LEGEND} {MARKED}" if marks else LEGEND),
        "choices": _table(side_by_side(found)),
        "trust": f"<p>{escape(optimism(found))}</p>{_folded(other_half(found))}",
        "trials": _trials(found),
        "rest": "".join(_section(table) for table in (failures(found), stops(found), refusals(found))),
        "commands": "".join(f"<p><code>{escape(line)}</code> {escape(does)}</p>" for line, does in commands(found)),
        "data": _data(found, marks),
        "script": script,
    }
    template = resources.files("orchestrator").joinpath("report_template.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)  # one pass: no value is read as template


def _section(table: Table) -> str:
    if not table.rows:
        return ""
    return f"<h2>{escape(table.title)}</h2>{_folded(table)}"


def _folded(table: Table) -> str:
    """A table, closed at first if it is long."""
    inside = _table(table)
    return f"<details><summary>all {len(table.rows)}</summary>{inside}</details>" if len(table.rows) > 16 else inside


def _table(table: Table) -> str:
    if not table.rows:
        return ""
    head = "".join(f"<th>{escape(text)}</th>" for text in table.head)
    rows = (
        f"<th>{escape(row[0])}</th>" + "".join(f"<td>{escape(text)}</td>" for text in row[1:]) for row in table.rows
    )
    body = "".join(f"<tr>{cells}</tr>" for cells in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _trials(found: Findings) -> str:
    """The table of all trials, one line each; `data-v` is what a column sorts by."""
    on_front = {record.trial for record in found.front()}
    varied = varying(found)
    sizes = {"params": "params", "FLOPs": "flops"}
    if any(value(record, KNOWLEDGE) > 0 for record in found.trials):
        sizes["knowledge"] = KNOWLEDGE
    columns = ["trial", "status", "method", "score", "other half", *sizes, "time", "architecture", *varied]
    head = "".join(_head(name) for name in columns)
    rows = []
    for record in found.trials:
        cells = [
            _cell(record.trial, "front" if record.trial in on_front else ""),
            _cell(record.status),
            _cell(record.method),
        ]
        cells += [_number(figures.scored(record, name), value(record, name)) for name in ("score", "held")]
        cells += [_number(figures.cost(name, value(record, name)), value(record, name)) for name in sizes.values()]
        cells += [_number(figures.duration(record.wall_s) if record.wall_s else "-", record.wall_s or math.nan)]
        cells += [
            _cell(figures.shape(record.layout)),
            *(_cell(figures.choice(record.sample.get(name))) for name in varied),
        ]
        kinds = (
            f'data-trial="{escape(record.trial)}" data-status="{record.status}" data-method="{escape(record.method)}"'
        )
        rows.append(f"<tr {kinds}>{''.join(cells)}</tr>")
    body = "".join(rows)
    return f'<div class="scroll" id="trials"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _head(name: str) -> str:
    """A column's head; scores sort best first."""
    first = ' data-first="down"' if name in ("score", "other half") else ""
    kind = ' class="n"' if name in ("score", "other half", "params", "FLOPs", "knowledge", "time") else ""
    return f'<th scope="col"{first}{kind}><button>{escape(name)}</button></th>'


def _cell(text: str, kind: str = "") -> str:
    return f'<td class="{kind}">{escape(text)}</td>' if kind else f"<td>{escape(text)}</td>"


def _number(text: str, number: float) -> str:
    return f'<td class="n" data-v="{number if math.isfinite(number) else ""}">{escape(text)}</td>'


def _data(found: Findings, marks: Sequence[Published]) -> str:
    """What the chart reads, as JSON that cannot end its element."""
    on_front = {record.trial for record in found.front()}
    seen = {name for record in found.trials for name, number in record.costs.items() if number > 0}
    names = [name for name in figures.COSTS if name in seen | {"params"}]
    payload = {
        "metric": found.metric,
        "methods": sorted({record.method for record in found.trials}) or list(found.methods),
        "costs": [{"name": name, "label": figures.COSTS[name]} for name in names],
        "budget": found.budget,
        "aims": [name for name in found.objectives if name != "score"],
        "teacher": found.teacher and _point(found, found.teacher, on_front),
        "points": [_point(found, record, on_front) for record in found.trials],
        "marks": [_mark(found, mark) for mark in marks],
    }
    text = json.dumps(payload, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _point(found: Findings, record: TrialRecord, on_front: set[str]) -> dict[str, Any]:
    numbers = {"score": "score", "se": "score_se", "held": "held", "held_se": "held_se"}
    metrics = {
        short: record.metrics[name]
        for short, name in numbers.items()
        if math.isfinite(record.metrics.get(name, math.nan))
    }
    return {
        "trial": record.trial,
        "method": record.method,
        "status": record.status,
        "reason": record.reason,
        "shape": figures.shape(record.layout),
        "chosen": figures.chosen(record.sample),
        "costs": {name: number for name, number in record.costs.items() if math.isfinite(number)},
        "front": record.trial in on_front,
        "fits": found.fits(record),
        **metrics,
    }


def _mark(found: Findings, mark: Published) -> dict[str, Any]:
    layout = mark.layout
    costs = {"params": layout.params(), "bytes": layout.bytes(), "flops": layout.flops(found.length)}
    claim = mark.claims.get(re.sub(r"[^a-z0-9]", "", found.task.lower().removeprefix("glue/")), "")
    shape = figures.shape(layout.to_json())
    return {
        "name": mark.name,
        "costs": costs,
        "shape": shape,
        "source": mark.source,
        "claim": claim and f"published: {claim}",
    }


def to_markdown(found: Findings) -> str:
    """The same findings for a terminal, a pull request or a paper's appendix."""
    everything = Table(
        title="Trials",
        head=("trial", "status", "method", "score", "other half", "params", "architecture", "chosen"),
        rows=[
            (
                record.trial,
                record.status,
                record.method,
                figures.scored(record, "score"),
                figures.scored(record, "held"),
                figures.cost("params", value(record, "params")),
                figures.shape(record.layout),
                figures.chosen(record.sample),
            )
            for record in found.trials
        ],
    )
    lines = [f"# {_plain(found.name)}", "", _plain(facts(found)), "", f"**{_plain(verdict(found))}**", ""]
    lines += [progress(found), "", *_markdown(side_by_side(found)), *_markdown(other_half(found))]
    lines += [_plain(optimism(found)), ""] if optimism(found) else []
    for table in (everything, failures(found), stops(found), refusals(found)):
        lines += _markdown(table)
    lines += ["## Go on", "", "```", *(f"{line:<48} # {does}" for line, does in commands(found)), "```", ""]
    return "\n".join(lines)


def _markdown(table: Table) -> list[str]:
    if not table.rows:
        return []
    lines = [[*map(_plain, table.head)], ["---"] * len(table.head), *([*map(_plain, row)] for row in table.rows)]
    return [f"## {table.title}", "", *("| " + " | ".join(cells) + " |" for cells in lines), ""]


def _plain(text: str) -> str:
    """Text that Markdown shows as it is: no cell, tag, link or line of its own."""
    return re.sub(r"([\\`*\[\]<>|]|(?<!\w)_|_(?!\w))", r"\\\1", " ".join(text.split()))
