import json
import re
import shutil
import subprocess
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from methods.parts.layout import Layout
from orchestrator import findings, report
from orchestrator import records as trial_records
from orchestrator.findings import NOISE, Findings, choices, optimism, tally, varying, verdict
from orchestrator.folder import SweepFolder
from orchestrator.front import best_within, front, value, within_noise
from orchestrator.plan import Plan
from orchestrator.published import published
from orchestrator.records import TrialRecord
from orchestrator.report import to_html, to_markdown, write_report
from orchestrator.reporter import Reporter
from tests.orchestrator.sweeps import small_plan, small_sweep, teacher

TRIALS = 30
BASE = Layout.uniform(vocab=30522, hidden=768, num_layers=12, heads=12, head_width=64, ffn=3072)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return small_plan(tmp_path_factory.mktemp("plan"), trials=TRIALS)


@pytest.fixture(scope="module")
def sweep(plan: Plan) -> list[TrialRecord]:
    return small_sweep(plan, TRIALS)


@pytest.fixture(scope="module")
def found(plan: Plan, sweep: list[TrialRecord]) -> Findings:
    return findings.findings(json.loads(json.dumps(plan.to_json())), sweep)


class Page(HTMLParser):
    """What a browser would see: elements, text by section, and the chart's data."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.scripts: list[str] = []
        self._open = ""
        self.feed(html)
        self.data = json.loads(self.scripts[0])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._open = tag
        self.addresses += [text for name, text in attrs if name in ("src", "href") and text]
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open == "script":
            self.scripts[-1] += data
        else:
            self.text += data


def test_the_page_needs_no_network_and_only_its_own_script(found: Findings) -> None:
    html = to_html(found)
    page = Page(html)
    assert not page.addresses
    assert "http://" not in re.sub(r"http://www\.w3\.org/2000/svg", "", html)
    assert "url(" not in html
    assert page.tags.count("script") == 2
    assert re.search(r"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-[\w+/]{43}='", html)
    assert "{{" not in html
    assert len(html) < 100_000


def test_every_trial_is_in_the_table_and_in_the_chart(found: Findings, sweep: list[TrialRecord]) -> None:
    html = to_html(found)
    page = Page(html)
    assert len(re.findall(r"<tr data-trial=", html)) == TRIALS
    assert [point["trial"] for point in page.data["points"]] == [record.trial for record in sweep[1:]]
    assert page.data["teacher"]["score"] == 0.93
    assert page.data["budget"] == {"params": 250_000}
    assert [mark["name"] for mark in page.data["marks"]] == ["ROSITA, scaled"]
    on_front = {point["trial"] for point in page.data["points"] if point["front"]}
    assert on_front == {record.trial for record in front(sweep, found.objectives)}


def test_the_page_says_what_failed_was_stopped_and_was_refused(found: Findings) -> None:
    text = Page(to_html(found)).text
    for title in ("What failed, and why", "Stopped early", "Refused before the start", "Can the scores be trusted?"):
        assert title in text
    for status in ("failed", "stopped", "refused"):
        for record in found.of_status(status):
            assert record.reason in text
    assert "logs/t0005.log" in text
    assert f"distilsweep export small {choices(found)[0].record.trial}" in text


def test_the_choices_are_those_of_pick(found: Findings, sweep: list[TrialRecord]) -> None:
    chosen = {why: choice.record for choice in choices(found) for why in choice.why}
    assert chosen["best score within the budget"] == best_within(sweep, found.budget)
    assert chosen["smallest within noise of the best"] == within_noise(found.feasible())
    like_teacher = chosen["smallest within noise of the teacher"]
    target = 0.93 - NOISE * 0.011
    assert value(like_teacher, "score") >= target
    smaller = [record for record in found.of_status("done") if value(record, "params") < value(like_teacher, "params")]
    assert all(value(record, "score") < target for record in smaller)
    assert len(chosen) == 4
    assert len({choice.record.trial for choice in choices(found)}) == len(choices(found))
    assert verdict(found).startswith(f"Best within the budget: {choices(found)[0].record.trial}, ")


def test_the_other_half_of_dev_stands_beside(found: Findings) -> None:
    assert "score 0.0050 lower on average" in optimism(found)
    without = [replace(record, metrics={"score": record.metrics["score"]}) for record in found.of_status("done")]
    assert optimism(replace(found, trials=tuple(without))) == ""


ATTACK = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'`{{data}} | **bold** [a](javascript:b)"


def test_text_from_users_stays_text(plan: Plan, sweep: list[TrialRecord]) -> None:
    evil = [
        replace(record, reason=ATTACK, method=ATTACK, sample={ATTACK: index, "y": ATTACK}, log=ATTACK)
        for index, record in enumerate(sweep[1:])
    ]
    stored = plan.to_json()
    stored["spec"] = {**stored["spec"], "name": ATTACK, "task": {"name": ATTACK}}
    found = findings.findings({**stored, "metric": ATTACK, "methods": [ATTACK]}, [sweep[0], *evil])
    html = to_html(found)
    page = Page(html)
    assert page.tags.count("script") == 2
    assert "img" not in page.tags
    assert not page.addresses
    assert page.data["points"][0]["method"] == ATTACK
    assert ATTACK in page.text
    assert page.scripts[1] == Page(to_html(findings.findings(plan.to_json(), sweep))).scripts[1]
    markdown = to_markdown(found)
    prose = markdown.partition("```")[0]
    assert "<img" not in prose.replace("\\<", "")
    table = markdown.partition("## Trials")[2].split("\n\n")[1].splitlines()
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {9}


def test_the_markdown_twin_tells_the_same(found: Findings) -> None:
    markdown = to_markdown(found)
    for record in found.trials:
        assert f"| {record.trial} | {record.status} |" in markdown
    assert "distilsweep pick small" in markdown
    assert "± 0.0240" in markdown


def test_an_unfinished_sweep_has_a_report_too(plan: Plan, tmp_path: Path) -> None:
    for records in ([], [teacher(plan)]):
        html, markdown = write_report(SweepFolder(tmp_path, "small"), plan.to_json(), records)
        assert "No trial has finished within the budget yet" in html.read_text()
        assert f"{TRIALS} to come" in markdown.read_text()


def test_the_reporter_writes_while_the_sweep_runs_and_at_its_end(
    plan: Plan, sweep: list[TrialRecord], tmp_path: Path
) -> None:
    folder = SweepFolder(tmp_path, "small")
    trial_records.write(folder, sweep[0])
    reporter = Reporter(folder, every_s=3600.0)
    reporter.on_start(plan)
    reporter.on_record(sweep[1])
    first = folder.file("report.md").read_text()
    assert "| t0000 |" in first
    reporter.on_record(sweep[2])
    assert folder.file("report.md").read_text() == first, "the next one is not due yet"
    reporter.on_end(None)
    assert "| t0001 |" in folder.file("report.md").read_text()
    assert "| the teacher |" in folder.file("report.md").read_text()


def test_numbers_that_are_none_do_not_break_the_page(plan: Plan, sweep: list[TrialRecord]) -> None:
    nan = float("nan")
    broken = [replace(record, metrics={"score": nan, "score_se": nan}, costs={}) for record in sweep[1:6]]
    page = Page(to_html(findings.findings(plan.to_json(), broken)))
    assert all("score" not in point for point in page.data["points"])


def test_a_thousand_trials_are_written_fast_and_stay_small(
    plan: Plan, sweep: list[TrialRecord], tmp_path: Path
) -> None:
    many = [replace(sweep[1 + number % TRIALS], trial=f"t{number:04d}") for number in range(1000)]
    stored = plan.to_json()
    started_s = time.process_time()
    html, _ = write_report(SweepFolder(tmp_path, "small"), stored, [sweep[0], *many])
    assert time.process_time() - started_s < 5.0
    assert html.stat().st_size < 1_300_000


def test_published_shapes_have_their_published_sizes() -> None:
    sizes = {mark.name: mark.layout.params() for mark in published(BASE)}
    assert sizes == {"TinyBERT4": 14_350_874, "ROSITA": 14_474_754, "TinyBERT6": 66_956_546}
    assert list(sizes) == ["TinyBERT4", "ROSITA", "TinyBERT6"]


def test_a_shape_that_does_not_fit_the_teacher_is_not_marked() -> None:
    odd = Layout.uniform(vocab=100, hidden=128, num_layers=4, heads=4, head_width=32, ffn=512)
    assert published(odd) == []
    scaled = Layout.uniform(vocab=100, hidden=96, num_layers=6, heads=6, head_width=16, ffn=192)
    (mark,) = published(scaled)
    assert mark.layout.describe().startswith("1 heads x 4 layers, FFN 32, rank 16")


def test_only_what_varies_gets_a_column(found: Findings) -> None:
    assert varying(found) == ["heads", "layers", "ffn_dim", "embedding_rank", "lr"]
    assert sum(tally(found).values()) >= TRIALS


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium to run the page's script")
def test_a_browser_draws_a_thousand_trials(plan: Plan, sweep: list[TrialRecord], tmp_path: Path) -> None:
    many = [replace(sweep[1 + number % TRIALS], trial=f"t{number:04d}") for number in range(1000)]
    html, _ = write_report(SweepFolder(tmp_path, "small"), plan.to_json(), [sweep[0], *many])
    drawn = browse(html, tmp_path)
    assert drawn.count("<circle") >= 600
    assert "1000 of 1000" in drawn
    assert "any size: t" in drawn


def browse(page: Path, folder: Path) -> str:
    """The document after its script ran."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    flags += ["--disable-component-update", "--disable-sync", f"--user-data-dir={folder / 'chromium'}", "--dump-dom"]
    command = [str(CHROMIUM), *flags, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def test_the_script_puts_text_in_as_text_only() -> None:
    script = (Path(report.__file__).parent / "report_chart.js").read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", script)
