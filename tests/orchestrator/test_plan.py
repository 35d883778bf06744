"""A plan knows the cost of every design before anything is trained, and refuses with numbers."""

import dataclasses
import json
import random
import sys
from pathlib import Path

import pytest

from methods.parts.layout import Layout
from orchestrator.cluster import Cluster, Node
from orchestrator.configs import build, load_method
from orchestrator.errors import PlanError
from orchestrator.plan import Design, Plan, Refusal, make_plan
from orchestrator.plantext import describe
from orchestrator.space import draw, grid
from orchestrator.spec import load_spec
from tests.conftest import ROOT
from tests.orchestrator.sweepfiles import PAPERS, changed, load, plan, problems, write

TWO = Cluster(name="two", nodes=(Node(cpus=2),))
ARCHITECTURE = "architecture: {layers: 4, heads: 4, hidden: 32, ffn_dim: 64, positions: 64}"
BERT_BASE = {
    "model_type": "bert",
    "architectures": ["BertForMaskedLM"],
    "vocab_size": 30522,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
}


def checkpoint(folder: Path, **changes: object) -> Path:  # only config.json: a plan reads no weights
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({**BERT_BASE, **changes}))
    return folder


def design(found: Design | Refusal) -> Design:
    assert isinstance(found, Design), found
    return found


def refusal(found: Design | Refusal) -> Refusal:
    assert isinstance(found, Refusal), found
    return found


def test_a_sample_becomes_a_complete_design(tmp_path: Path) -> None:
    made = plan(tmp_path)
    found = design(made.resolve("shrink", {"lr": 0.001, "heads": 2, "layers": 2}))
    method = load_method("shrink", PAPERS)
    assert found.config.keys() == method.fields.keys()
    assert found.config["lr"] == 0.001
    assert found.config["layers"] == 2
    assert json.loads(json.dumps(found.config)) == found.config
    assert build(method, found.config) == method.config(heads=2, layers=2, lr=0.001)
    assert [layer.heads for layer in found.layout.layers] == [2, 2]
    assert found.layout.vocab == 256
    assert found.costs == {
        "params": found.layout.params(),
        "bytes": found.layout.params() * 4,
        "flops": found.layout.flops(32),
        "knowledge_bytes": 0,
    }
    assert list(found.sample) == ["heads", "layers", "lr"]


def test_equal_designs_have_equal_keys_and_others_do_not(tmp_path: Path) -> None:
    made = plan(tmp_path)
    key = design(made.resolve("shrink", {"heads": 2, "layers": 2, "lr": 0.01})).key
    assert key == design(made.resolve("shrink", {"lr": 0.01, "layers": 2, "heads": 2})).key
    assert (
        key
        == design(
            plan(tmp_path, changed(("trials: 4", "trials: 9"))).resolve("shrink", {"heads": 2, "layers": 2, "lr": 0.01})
        ).key
    )
    others = [
        (changed(), {"heads": 1, "layers": 2, "lr": 0.01}),
        (changed(("{recipe: fast}", "{note: x}")), {"heads": 2, "layers": 2, "lr": 0.01}),
        (changed(("task: agreement", "task: {name: agreement, limit: 9}")), {"heads": 2, "layers": 2, "lr": 0.01}),
        (changed(("finetune: {epochs: 1}", "finetune: {epochs: 2}")), {"heads": 2, "layers": 2, "lr": 0.01}),
    ]
    keys = [design(plan(tmp_path, text).resolve("shrink", sample)).key for text, sample in others]
    assert len({key, *keys}) == 5


def test_spelling_out_a_default_changes_no_key(tmp_path: Path) -> None:
    sample = {"heads": 2, "layers": 2, "lr": 0.01}
    short = design(plan(tmp_path).resolve("shrink", sample)).key
    spelled = changed(("finetune: {epochs: 1}", "finetune: {epochs: 1.0, lr: 2.0e-5}"), ("recipe: fast", "tied: true"))
    assert design(plan(tmp_path, spelled).resolve("shrink", sample)).key == short


def test_an_over_budget_design_is_refused_with_numbers(tmp_path: Path) -> None:
    made = plan(tmp_path)
    found = refusal(made.resolve("shrink", {"heads": 4, "layers": 4, "lr": 0.01}))
    assert found.layout is not None
    assert found.costs["params"] == found.layout.params() > 30_000
    excess = 100 * (found.layout.params() / 30_000 - 1)
    assert found.reason.startswith(f"{found.layout.params():,} params exceed the budget of 30,000 by {excess:.1f} %")
    assert "4 heads x 4 layers" in found.reason


def test_the_budget_itself_is_allowed_and_one_more_is_not(tmp_path: Path) -> None:
    sample = {"heads": 2, "layers": 2, "lr": 0.01}
    for cost in ("params", "bytes", "flops"):
        exact = int(design(plan(tmp_path).resolve("shrink", sample)).costs[cost])
        for limit, kind in ((exact, Design), (exact - 1, Refusal)):
            made = plan(tmp_path, changed(("{params: 30K}", f"{{{cost}: {limit}}}")))
            assert isinstance(made.resolve("shrink", sample), kind), cost


@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        ({"heads": 9, "layers": 2, "lr": 0.01}, "heads: found 9; allowed: 1 to 4"),
        ({"heads": 1, "layers": 2}, "lr: missing"),
        ({"heads": 1, "layers": 2, "lr": 0.01, "x": 1}, "x: no such parameter"),
    ],
)
def test_a_sample_outside_the_space_is_refused(tmp_path: Path, sample: dict[str, float], reason: str) -> None:
    assert refusal(plan(tmp_path).resolve("shrink", sample)).reason.startswith(reason)


def test_an_impossible_layout_is_refused_in_the_words_of_the_method(tmp_path: Path) -> None:
    made = plan(tmp_path, changed(("choice: [1, 2, 4]", "choice: [1, 2, 9]")))
    assert refusal(made.resolve("shrink", {"heads": 1, "layers": 9, "lr": 0.01})).reason == (
        "layers: found 9, allowed are 1 to 4"
    )


def test_feasible_designs_are_counted_exactly_in_a_small_space(tmp_path: Path) -> None:
    made = plan(tmp_path, changed(("float: [1.0e-4, 1.0e-2], log: true", "choice: [0.001, 0.01]")))
    found, space = made.feasible["shrink"], made.methods[0].space
    resolved = [made.resolve("shrink", sample) for sample in grid(space)]
    assert found.total == found.tried == len(resolved) == 24
    assert found.fitting == sum(1 for one in resolved if isinstance(one, Design)) < 24
    assert found.describe() == f"{found.fitting} of 24 designs feasible"
    assert found.smallest is not None
    assert found.smallest.costs["params"] == min(one.costs["params"] for one in resolved)


def test_feasible_designs_are_estimated_in_a_continuous_space(tmp_path: Path) -> None:
    found = plan(tmp_path).feasible["shrink"]
    assert not found.exact
    assert (
        found.describe()
        == f"about {100 * found.fitting / found.tried:.0f} % of a continuous space feasible (301 drawn)"
    )


def test_an_all_refused_space_is_no_plan(tmp_path: Path) -> None:
    (line,) = problems(tmp_path, changed(("30K", "1K")))
    assert line.startswith("sweep.yaml:12: budget.params: no design of shrink is feasible, the 301 tried are refused: ")
    assert "params exceed the budget of 1,000 17 times" in line
    (line,) = problems(
        tmp_path, changed(("choice: [1, 2, 4]", "choice: [7, 8]"), ("{heads: 2, layers: 2}", "{heads: 2}"))
    )
    assert line.endswith("layers: found 8, allowed are 1 to 4") or line.endswith("layers: found 7, allowed are 1 to 4")


def test_the_same_file_gives_the_same_plan(tmp_path: Path) -> None:
    assert plan(tmp_path).hash() == plan(tmp_path).hash()
    assert plan(tmp_path).to_json() == plan(tmp_path).to_json()
    moved = plan(tmp_path, changed(("cpus: 1", "cpus: 0.5")))
    assert moved.hash() == plan(tmp_path).hash()
    assert plan(tmp_path, changed(("30K", "29K"))).hash() != plan(tmp_path).hash()


def test_what_is_stored_holds_what_a_report_needs(tmp_path: Path) -> None:
    made = plan(tmp_path)
    stored = json.loads(json.dumps(made.to_json()))
    assert stored["spec"] == made.spec.to_json()
    assert stored["methods"] == ["shrink"]
    assert stored["objectives"] == {"score": "max", "params": "min"}
    assert (stored["metric"], stored["length"], stored["trials"]) == ("accuracy", 32, 4)
    assert Layout.from_json(stored["teacher_layout"]) == made.teacher_layout
    assert made.teacher["finetune"] == {"epochs": 1.0, "lr": 2e-5}
    assert made.teacher["architecture"]["vocab"] == 256


@pytest.mark.parametrize(
    ("resources", "nodes", "slots"),
    [
        ("{workers: 1, cpus: 1}", [2], 2),
        ("{workers: 1, cpus: 1}", [8], 4),
        ("{workers: 2, cpus: 1}", [2, 2], 2),
        ("{workers: 1, cpus: 2}", [3, 3], 2),
        ("{workers: 1, cpus: 1, slots: 1}", [2], 1),
    ],
)
def test_slots_are_what_the_cluster_holds(tmp_path: Path, resources: str, nodes: list[int], slots: int) -> None:
    spec = load(tmp_path, changed(("{workers: 1, cpus: 1}", resources)))
    cluster = Cluster(name="test", nodes=tuple(Node(cpus=cpus) for cpus in nodes))
    assert make_plan(spec, cluster, package=PAPERS).slots == slots


@pytest.mark.parametrize(
    ("resources", "line"),
    [
        (
            "{workers: 3}",
            "resources.workers: a trial needs 3 workers of 1 CPUs and 0 GPUs each; cluster 'two' has 1 node",
        ),
        ("{cpus: 4}", "resources.cpus: a trial needs 1 workers of 4 CPUs"),
        ("{gpus: 1}", "resources.gpus: a trial needs 1 workers of 1 CPUs and 1 GPUs each"),
        (
            "{slots: 3}",
            "resources.slots: found 3; cluster 'two' has 1 node with 2 CPUs and 0 GPUs, room for 2 trials at a time",
        ),
    ],
)
def test_what_does_not_fit_the_cluster_is_refused(tmp_path: Path, resources: str, line: str) -> None:
    spec = load(tmp_path, changed(("{workers: 1, cpus: 1}", resources)))
    with pytest.raises(PlanError, match=r"sweep\.yaml:14: ") as caught:
        make_plan(spec, TWO, package=PAPERS)
    assert line in str(caught.value)


def test_all_that_is_wrong_with_data_teacher_and_cluster_comes_at_once(tmp_path: Path) -> None:
    text = changed(
        ("task: agreement", "task: {name: sst2, data: nowhere}"),
        (ARCHITECTURE, "model: bert-base-uncased"),
        ("{params: 30K}", "{params: 30K, latency_ms: 8}"),
        ("cpus: 1", "cpus: 64"),
    )
    with pytest.raises(PlanError) as caught:
        make_plan(load(tmp_path, text), TWO, package=PAPERS)
    assert [line.split(": ")[1] for line in str(caught.value).splitlines()] == [
        "budget.latency_ms",
        "resources.cpus",
        "task",
    ]


def test_a_teacher_folder_gives_its_layout(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "bert")
    made = plan(tmp_path, changed((ARCHITECTURE, f"model: {folder.name}"), ("30K", "110M")))
    assert made.teacher_layout == Layout.uniform(
        vocab=30522, hidden=768, num_layers=12, heads=12, head_width=64, ffn=3072, labels=2
    )
    assert made.teacher_layout.params() == 109_483_778


def test_a_tuned_teacher_needs_no_training(tmp_path: Path) -> None:
    labels = {"id2label": {"0": "unacceptable", "1": "acceptable"}, "architectures": ["BertForSequenceClassification"]}
    folder = checkpoint(tmp_path / "tuned", **labels)
    text = changed((f"  {ARCHITECTURE}\n  finetune: {{epochs: 1}}", f"  model: {folder.name}"), ("30K", "110M"))
    assert plan(tmp_path, text).teacher == {"model": str(folder)}


@pytest.mark.parametrize(
    ("changes", "finetune", "line"),
    [
        ({}, False, "found no classifier; add `finetune: {}` to tune it on agreement"),
        (
            {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "a", "1": "b", "2": "c"}},
            True,
            "found a classifier of 3 outputs; the task agreement has unacceptable, acceptable",
        ),
        (
            {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "positive", "1": "negative"}},
            False,
            "the checkpoint has positive, negative; the task has unacceptable, acceptable",
        ),
        ({"max_position_embeddings": 16}, True, "the teacher reads 16 tokens at most, the task's max_length is 32"),
        ({"model_type": "gpt2"}, True, "config.json: model_type: found 'gpt2'"),
        ({"hidden_act": "relu"}, True, "config.json: hidden_act: found 'relu', allowed is 'gelu'"),
    ],
)
def test_a_teacher_that_cannot_teach_the_task_is_refused(
    tmp_path: Path, changes: dict[str, object], finetune: bool, line: str
) -> None:
    checkpoint(tmp_path / "t", **changes)
    text = changed((ARCHITECTURE, "model: t"), ("30K", "110M"))
    (found,) = problems(tmp_path, text if finetune else text.replace("  finetune: {epochs: 1}\n", ""))
    assert found.startswith("sweep.yaml:3: teacher: ")
    assert line in found


def test_a_missing_teacher_folder_or_package_is_told(tmp_path: Path) -> None:
    (line,) = problems(tmp_path, changed((ARCHITECTURE, "model: ./nowhere")))
    assert line == "sweep.yaml:3: teacher: nowhere: no such folder"
    (line,) = problems(tmp_path, changed((ARCHITECTURE, "package: no_such_package")))
    assert "no_such_package" in line
    assert "installed" in line


def test_a_package_is_found_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint(tmp_path / "carrier" / "model")
    (tmp_path / "carrier" / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (tmp_path / "carrier" / "model" / "model.safetensors").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    made = plan(tmp_path, changed((ARCHITECTURE, "package: carrier"), ("30K", "110M")))
    assert made.teacher_layout.hidden == 768
    assert "carrier" not in sys.modules


def test_the_description_names_everything(tmp_path: Path) -> None:
    spec = load(tmp_path, changed(("{heads: 2, layers: 2}", "{heads: 2, layers: 2}, {heads: 4, layers: 4}")))
    made = make_plan(spec, TWO, package=PAPERS)
    lines = "\n".join(describe(made))
    for piece in (
        "small",
        "agreement: 2 outputs, accuracy, 32 tokens",
        "trained from scratch: 4 heads x 4 layers, FFN 64",
        "shrink over heads, layers, lr: about",
        "params <= 30,000",
        "4 trials, tpe, seed 0; score max, params min",
        "1 node with 2 CPUs and 0 GPUs",
        "2 trials at a time, 1 workers each, warm gangs",
    ):
        assert piece in lines
    assert "start point 1 will be refused: " in lines
    assert "start point 0" not in lines


def shipped(name: str, folder: Path, *overrides: str) -> Plan:
    """The plan of a shipped sweep file; its teacher, which a hub would give, is replaced by its shape."""
    teacher = checkpoint(folder / "bert")
    (folder / "SST-2").mkdir()
    for split in ("train", "dev"):
        (folder / "SST-2" / f"{split}.tsv").write_text("sentence\tlabel\nfine .\t1\nbad .\t0\n")
    given = [f"teacher.model={teacher}", f"task.data={folder / 'SST-2'}"] if name != "quickstart" else []
    return make_plan(load_spec(ROOT / "search_spaces" / f"{name}.yaml", [*given, *overrides]), TWO)


@pytest.mark.parametrize("name", ["quickstart", "rosita", "finetune"])
def test_the_shipped_files_can_be_planned_and_their_start_points_run(tmp_path: Path, name: str) -> None:
    made = shipped(name, tmp_path)
    assert made.feasible[name if name != "quickstart" else "rosita"].fitting > 0
    assert made.spec.starts()
    for method, start in made.spec.starts():
        design(made.resolve(method, draw(made.methods[0].space, random.Random(0), start)))


def test_the_published_rosita_is_the_first_start_point_and_has_its_published_size(tmp_path: Path) -> None:
    made = shipped("rosita", tmp_path)
    method, start = made.spec.starts()[0]
    found = design(made.resolve(method, start))
    assert found.costs["params"] == 14_474_754
    assert dataclasses.replace(found.layout.layers[0]).heads == 2


def test_the_quickstart_is_small_and_says_its_smallest_student_truly(tmp_path: Path) -> None:
    made = shipped("quickstart", tmp_path)
    assert made.spec.search.trials >= 12
    smallest = made.feasible["rosita"].smallest
    assert smallest is not None
    text = (ROOT / "search_spaces" / "quickstart.yaml").read_text()
    assert f"1 head x 1 layer, FFN {smallest.layout.layers[0].ffn}, rank {smallest.layout.embedding_rank}" in text
    assert len(smallest.layout.layers) == smallest.layout.layers[0].heads == 1
    assert write(tmp_path, made.spec.to_yaml()).is_file()
    assert load_spec(tmp_path / "sweep.yaml") == made.spec
