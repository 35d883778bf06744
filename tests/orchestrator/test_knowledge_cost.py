"""Stored knowledge is a cost like the others: predicted, limited, an objective; and the disk has a quota."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from methods.parts.layout import Layout
from methods.parts.run import LocalRun
from methods.parts.tasks import Task, open_task
from methods.parts.tokens import encode
from methods.parts.wordpiece import train_wordpiece
from orchestrator.changes import settle
from orchestrator.cluster import Cluster, Node
from orchestrator.errors import PlanError, SpecError
from orchestrator.findings import findings, side_by_side
from orchestrator.folder import SweepFolder
from orchestrator.ledger import Ledger
from orchestrator.lengths import NUM_SAMPLED, predict_lengths
from orchestrator.plan import Design, Plan, Refusal, make_plan
from orchestrator.plantext import describe
from orchestrator.quota import MOST_BYTES, resolve_quota, used_bytes
from orchestrator.report import to_html
from orchestrator.spec import load_spec

pytestmark = pytest.mark.long

LISTENERS = "tests.doubles.listeners"
SWEEP = """\
name: listen
task: {name: agreement, limit: 500}
teacher:
  architecture: {layers: 4, heads: 4, hidden: 32, ffn_dim: 64, positions: 64}
  finetune: {epochs: 1}
method: listen
space: {layers: {choice: [1, 2]}, states: {choice: [0, 1, 4]}}
"""
CLUSTER = Cluster(name="test", nodes=(Node(cpus=2),))


def plan(folder: Path, *overrides: str, text: str = SWEEP) -> Plan:
    folder.mkdir(exist_ok=True)
    path = folder / "listen.yaml"
    path.write_text(text, encoding="utf-8")
    return make_plan(load_spec(path, overrides, package=LISTENERS), CLUSTER, package=LISTENERS, root=folder)


def resolved(made: Plan, **sample: Any) -> Design:
    found = made.resolve("listen", {"layers": 2, "states": 1, **sample})
    assert isinstance(found, Design), found
    return found


def test_knowledge_costs_what_its_selection_stores_of_the_predicted_rows(tmp_path: Path) -> None:
    made = plan(tmp_path)
    lengths = made.lengths
    assert (lengths.rows, len(lengths.sample)) == (500, 500)
    sizes = [resolved(made, states=states).costs["knowledge_bytes"] for states in (0, 1, 4)]
    assert sizes[0] == 0
    state = int(lengths.sample.sum()) * 32 * 4
    assert sizes[1] > state
    assert sizes[2] - sizes[1] == 3 * state, "each further state adds its tokens at fp32"


def test_what_no_store_holds_takes_no_disk(tmp_path: Path) -> None:
    assert resolved(plan(tmp_path, "fixed.draw=true", "budget.params=1M")).costs["knowledge_bytes"] == 0


def test_it_can_be_limited_and_wanted_small(tmp_path: Path) -> None:
    size = int(resolved(plan(tmp_path)).costs["knowledge_bytes"])
    made = plan(tmp_path, f"budget.knowledge_bytes={size}", "objectives={score: max, knowledge_bytes: min}")
    assert isinstance(made.resolve("listen", {"layers": 2, "states": 1}), Design)
    refused = made.resolve("listen", {"layers": 2, "states": 4})
    assert isinstance(refused, Refusal)
    assert f"knowledge_bytes exceed the budget of {size:,}" in refused.reason
    with pytest.raises(PlanError, match="latency_ms: is not measured before or after training"):
        plan(tmp_path, "objectives={score: max, latency_ms: min}")


def test_the_plan_tells_knowledge_and_what_is_distilled_live(tmp_path: Path) -> None:
    made = plan(tmp_path, "resources.disk=1MB", "search.start=[{states: 4, layers: 1}]")
    stored = json.loads(json.dumps(made.to_json()))
    most = resolved(made, states=4).costs["knowledge_bytes"]
    assert stored["quota_bytes"] == 1_000_000
    assert stored["knowledge"] == {"listen": {"smallest_bytes": 0, "largest_bytes": most, "designs": 6, "live": 2}}, (
        most
    )
    lines = "\n".join(describe(made))
    assert "disk       at most 1.00 MB of stored knowledge, all trials together" in lines
    assert "knowledge  listen: 0 B to 3.03 MB of knowledge predicted for 500 rows of about 11.8 tokens" in lines
    assert "counted in words" in lines
    assert "2 of the 6 designs tried do not fit and will be distilled live" in lines
    assert "start point 0 will be distilled live: 3.03 MB of knowledge predicted" in lines
    roomy = "\n".join(describe(plan(tmp_path, "resources.disk=1GB")))
    assert "live" not in roomy


def test_what_adds_up_beyond_the_quota_is_told(tmp_path: Path) -> None:
    sizes = [resolved(plan(tmp_path), states=states).costs["knowledge_bytes"] for states in (1, 4)]
    made = plan(tmp_path, f"resources.disk={int(max(sizes))}")
    assert "in 1 store" in "\n".join(describe(made))
    made = plan(tmp_path, f"resources.disk={int(max(sizes)) - 1}")
    assert "which is more than the disk quota" in "\n".join(describe(made))


def test_the_quota_is_no_part_of_the_results(tmp_path: Path) -> None:
    assert plan(tmp_path, "resources.disk=1GB").hash() == plan(tmp_path, "resources.disk=2GiB").hash()


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ("much", 'resources.disk: found "much"; a number of at least 1, or one with a unit of B, KB, MB, GB,'),
        ("0", "resources.disk: found 0; a number of at least 1"),
        ("5 M", 'resources.disk: found "5 M"; a number'),
    ],
)
def test_a_quota_that_is_none_is_refused(tmp_path: Path, value: str, line: str) -> None:
    with pytest.raises(SpecError) as caught:
        plan(tmp_path, f"resources.disk={value}")
    assert line in str(caught.value)


def test_a_sweep_that_goes_on_keeps_its_quota(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path, "listen")
    free = shutil.disk_usage(tmp_path).free
    first = resolve_quota(None, folder)
    assert first <= min(free // 2, MOST_BYTES)
    assert resolve_quota(5, folder) == 5
    settle(folder, plan(tmp_path, "resources.disk=12MB"), accept=False)
    assert resolve_quota(None, folder) == 12_000_000
    assert plan(tmp_path).quota_bytes == 12_000_000
    folder.file("plan.json").write_text("{")
    assert resolve_quota(None, folder) == pytest.approx(first, abs=10**9)


def test_the_store_is_weighed(tmp_path: Path) -> None:
    assert used_bytes(tmp_path / "none") == 0
    for name, size in (("a", 10), ("b/c", 32)):
        path = tmp_path / "store" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
    assert used_bytes(tmp_path / "store") == 42


def test_records_and_reports_carry_it_and_the_stop_rule_ignores_it(tmp_path: Path) -> None:
    made = plan(tmp_path)
    ledger = Ledger(made, SweepFolder(tmp_path, "listen"), ())
    design = resolved(made, states=4)
    ledger.open("t0000", design)
    assert "knowledge_bytes" not in ledger.curves["t0000"].costs, "it is no cost of the model"
    record = ledger.close("t0000", {"status": "done", "result": {"metrics": {"score": 0.9}}})
    assert record is not None
    assert record.costs == design.costs
    found = findings(made.to_json(), [record])
    assert ("stored knowledge, predicted", "3.03 MB") in side_by_side(found).rows
    assert ">knowledge<" in to_html(found)
    wanted = Ledger(plan(tmp_path, "objectives={score: max, knowledge_bytes: min}"), SweepFolder(tmp_path, "other"), ())
    wanted.open("t0000", design)
    assert wanted.curves["t0000"].costs["knowledge_bytes"] == design.costs["knowledge_bytes"]


def real_lengths(task: Task, tokenizer: Path, folder: Path) -> np.ndarray[Any, Any]:
    return encode(task, "train", tokenizer, LocalRun(folder)).lengths


@pytest.mark.parametrize("name", ["agreement", "agreement-pair"])
def test_lengths_are_exact_with_a_tokenizer_and_near_without(name: str, tmp_path: Path) -> None:
    task = open_task(name, limit=300)
    train_wordpiece(task.source.read("train").texts, 256, tmp_path / "tokenizer")
    real = real_lengths(task, tmp_path / "tokenizer", tmp_path)
    known = predict_lengths(task, tmp_path / "tokenizer")
    assert sorted(known.sample) == sorted(real)
    guessed = predict_lengths(task)
    assert guessed.sample.mean() == pytest.approx(real.mean(), rel=0.15)
    assert guessed.scaled(7.0) == 7


def test_lengths_end_at_the_task_and_a_large_set_is_sampled() -> None:
    assert max(predict_lengths(open_task("agreement", max_length=8, limit=50)).sample) == 8
    large = predict_lengths(open_task("agreement"))
    assert len(large.sample) == NUM_SAMPLED < large.rows
    assert large.scaled(NUM_SAMPLED) == large.rows


def test_an_augmented_set_has_its_own_number_of_rows(tmp_path: Path) -> None:
    (tmp_path / "train_aug.tsv").write_text("text\tlabel\n" + "the cats run .\tacceptable\n" * 70)
    task = open_task("agreement", limit=50, augmented=tmp_path / "train_aug.tsv")
    assert predict_lengths(task).rows == pytest.approx(70, abs=1)


def test_real_sentences_are_about_as_long_as_predicted(shared: Path) -> None:
    """The factor is BERT's; a vocabulary of its own would only be nearer to whole words."""
    task = open_task("sst2", shared / "glue" / "SST-2", max_length=64)
    found = predict_lengths(task)
    assert found.rows == 67349
    assert found.sample.mean() == pytest.approx(13.3, abs=0.4), "BERT's own tokenizer gives 13.3 with special tokens"


def test_a_teacher_without_such_states_is_refused_by_the_plan(tmp_path: Path) -> None:
    made = plan(tmp_path)
    assert isinstance(made.teacher_layout, Layout)
    refused = made.resolve("listen", {"layers": 2, "states": 9})
    assert isinstance(refused, Refusal)
