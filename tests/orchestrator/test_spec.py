"""A sweep file becomes one value that can be written down and read back; Configs decide what methods take."""

import json
from pathlib import Path

import pytest

from methods.parts.blocks import corpus_blocks
from methods.parts.run import LocalRun
from orchestrator.configs import build, combine, config_json, due, fits, load_method, method_names
from orchestrator.errors import SpecError
from orchestrator.sections import ResourcesSection, StopSection
from orchestrator.space import Choice, Float, Int
from orchestrator.spec import SweepSpec, load_spec
from tests.orchestrator.sweepfiles import PAPERS, changed, load, plan, problems, write
from tests.parts.encoded import word_tokenizer


def again(folder: Path, spec: SweepSpec) -> SweepSpec:
    """Writes a resolved spec and reads it back."""
    return load_spec(write(folder, spec.to_yaml(), "again.yaml"), package=PAPERS)


def test_a_file_becomes_a_value_with_every_default(tmp_path: Path) -> None:
    spec = load(tmp_path)
    assert spec.name == "small"
    assert spec.task.name == "agreement"
    assert spec.teacher.architecture is not None
    assert spec.teacher.architecture.vocab == 256
    (method,) = spec.methods
    assert method.fixed == {"recipe": "fast"}
    assert dict(method.space.parameters) == {
        "heads": Int(1, 4),
        "layers": Choice((1, 2, 4)),
        "lr": Float(1e-4, 1e-2, log=True),
    }
    assert spec.objectives == {"score": "max", "params": "min"}
    assert spec.budget == {"params": 30_000}
    assert spec.search.sampler == "tpe"
    assert spec.starts() == [("shrink", {"heads": 2, "layers": 2})]
    assert spec.stop.rungs == (1, 3, 9)
    assert spec.resources.slots == "auto"


def test_a_resolved_spec_is_written_and_read_back_equal(tmp_path: Path) -> None:
    spec = load(tmp_path)
    assert again(tmp_path, spec) == spec
    assert again(tmp_path, spec).hash() == spec.hash()
    assert hash(again(tmp_path, spec)) == hash(spec)
    assert json.loads(json.dumps(spec.to_json())) == spec.to_json()


def test_another_value_is_another_spec(tmp_path: Path) -> None:
    assert load(tmp_path, changed(("trials: 4", "trials: 5"))) != load(tmp_path)
    assert load(tmp_path, changed(("trials: 4", "trials: 5"))).hash() != load(tmp_path).hash()


def test_where_it_is_written_makes_no_difference(tmp_path: Path) -> None:
    padded = load(tmp_path, "# a comment\n\n" + changed(("task: agreement", "task: {name: agreement}")))
    assert padded == load(tmp_path)


def test_several_methods_have_their_own_fixed_and_space(tmp_path: Path) -> None:
    head, _, _ = changed().partition("method:")
    several = (
        f"{head}method:\n  shrink: {{fixed: {{layers: 1}}, space: {{heads: {{int: [1, 2]}}}}}}\n  finetune: {{}}\n"
        "search: {start: [{method: shrink, heads: 1}, {method: finetune}]}\n"
    )
    spec = load(tmp_path, several)
    assert [method.name for method in spec.methods] == ["shrink", "finetune"]
    assert spec.methods[1].space.names == ()
    assert spec.starts() == [("shrink", {"heads": 1}), ("finetune", {})]
    assert again(tmp_path, spec) == spec


def test_overrides_come_before_the_checks(tmp_path: Path) -> None:
    spec = load(tmp_path, changed(("trials: 4", "trials: 0")), "search.trials=7", "task.limit=50", "fixed.note=on time")
    assert spec.search.trials == 7
    assert spec.task.limit == 50
    assert spec.methods[0].fixed["note"] == "on time"


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "teacher").mkdir()
    text = changed(
        ("task: agreement", "task: {name: mine, data: {train: a/t.tsv, dev: ../d.tsv}}"),
        ("architecture: {layers: 4, heads: 4, hidden: 32, ffn_dim: 64, positions: 64}", "model: teacher"),
    )
    (tmp_path / "deep").mkdir()
    spec = load(tmp_path, text)
    assert spec.task.data == {"train": str(tmp_path / "a/t.tsv"), "dev": str(tmp_path.parent / "d.tsv")}
    assert spec.teacher.model == str(tmp_path / "teacher")
    assert load_spec(write(tmp_path / "deep", spec.to_yaml()), package=PAPERS) == spec


@pytest.mark.parametrize(
    ("model", "resolved"),
    [("bert-base-uncased", "bert-base-uncased"), ("owner/name", "owner/name"), ("./none", "{}/none"), ("/x/y", "/x/y")],
)
def test_a_teacher_that_is_no_folder_and_no_path_is_a_hub_name(tmp_path: Path, model: str, resolved: str) -> None:
    text = changed(("architecture: {layers: 4, heads: 4, hidden: 32, ffn_dim: 64, positions: 64}", f"model: {model}"))
    assert load(tmp_path, text).teacher.model == resolved.format(tmp_path)


@pytest.mark.parametrize(
    ("written", "name", "value"),
    [
        ("15M", "params", 15_000_000),
        ("1.5G", "flops", 1_500_000_000),
        ("0.1B", "params", 100_000_000),
        ("60MB", "bytes", 60_000_000),
        ("60 MiB", "bytes", 60 * 2**20),
        ("512B", "bytes", 512),
        ("14474754", "params", 14_474_754),
        ("1_000", "params", 1000),
        ("8", "latency_ms", 8),
        ("0.5ms", "latency_ms", 0.5),
        ("2s", "latency_ms", 2000),
        ("1GiB", "knowledge_bytes", 2**30),
    ],
)
def test_budgets_have_units(tmp_path: Path, written: str, name: str, value: float) -> None:
    spec = load(tmp_path, changed(("{params: 30K}", f"{{{name}: {written}}}")))
    assert spec.budget == {name: value}
    assert again(tmp_path, spec).budget == {name: value}


def test_every_problem_comes_at_once(tmp_path: Path) -> None:
    text = changed(
        ("name: small", "name: Small/Sweep"),
        ("recipe: fast", "recipe: fsat, lr: 3e-5, hadn: 1"),
        ("int: [1, 4]", "int: [4, 1]"),
        ("trials: 4", "trials: 0"),
        ("params: 30K", "prams: 30K"),
    )
    with pytest.raises(SpecError) as caught:
        load(tmp_path, text)
    found = [line.split("sweep.yaml:")[1].split(": ")[:2] for line in caught.value.problems]
    assert found == [
        ["1", "name"],
        ["7", "fixed.recipe"],
        ["7", "fixed.lr"],
        ["7", "fixed.hadn"],
        ["9", "space.heads.int"],
        ["12", "budget.prams"],
        ["13", "search.trials"],
    ]


def test_methods_are_listed_by_their_files() -> None:
    assert method_names(PAPERS) == ("finetune", "shrink")


def test_types_are_those_of_the_config() -> None:
    fields = load_method("shrink", PAPERS).fields
    good = {
        "mode": [1, "none"],
        "heads": [3],
        "rank": [None, 4],
        "lr": [1, 0.5],
        "tied": [True],
        "widths": [[], [1, 2]],
    }
    bad = {
        "mode": ["1", True, 1.0, None],
        "heads": [1.0, True, "1", None],
        "rank": ["none", 1.5, False],
        "lr": ["3e-5", True, None, float("inf"), float("nan")],
        "tied": [1, "true", None],
        "note": [1, None],
        "widths": [1, "12", [1.5], [True], {}],
        "ends": [[1.0], [1, 2, 3], ["a", "b"]],
    }
    for name, values in good.items():
        assert all(fits(value, fields[name]) for value in values), name
    for name, wrong in bad.items():
        assert not any(fits(value, fields[name]) for value in wrong), name
    assert due(fields["mode"]) == "one of 1, none"
    assert due(fields["rank"]) == "a whole number or null"
    assert due(fields["widths"]) == "a list (each a whole number)"
    assert due(fields["ends"]) == "a list (a number, a number)"
    with pytest.raises(TypeError, match="a Config field of type"):
        fits({}, dict[str, int])


def test_a_config_comes_back_from_json_equal() -> None:
    method = load_method("shrink", PAPERS)
    config = build(method, {"widths": [3, 4], "ends": [0, 1], "lr": 1, "rank": None})
    assert config == method.config(widths=(3, 4), ends=(0.0, 1.0), lr=1.0, rank=None)
    assert isinstance(config.lr, float)
    written = json.loads(json.dumps(config_json(config)))
    assert written.keys() == method.fields.keys()
    assert build(method, written) == config


@pytest.mark.parametrize(
    ("values", "text"),
    [({"hades": 1}, "hades: no such field"), ({"heads": "1"}, "heads: found '1'"), ({"lr": -1.0}, "lr: found -1.0")],
)
def test_a_config_refuses_what_it_does_not_know(values: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        build(load_method("shrink", PAPERS), values)


def test_sample_beats_fixed_beats_recipe() -> None:
    method = load_method("shrink", PAPERS)
    assert combine(method, {"recipe": "fast", "layers": 3}, {"heads": 2}) == {"lr": 0.01, "layers": 3, "heads": 2}
    assert combine(method, {"recipe": "fast"}, {"lr": 0.5, "layers": 2}) == {"lr": 0.5, "layers": 2}
    assert combine(method, {"recipe": "fast"}, {"recipe": "slow"}) == {"lr": 0.0001}
    assert combine(method, {"heads": 4}, {}) == {"heads": 4}


def test_a_recipe_may_vary(tmp_path: Path) -> None:
    spec = load(
        tmp_path,
        changed(
            ("fixed: {recipe: fast}\n", ""),
            ("heads: {int: [1, 4]}", "recipe: {choice: [fast, slow]}"),
            (", start: [{heads: 2, layers: 2}]", ""),
        ),
    )
    assert spec.methods[0].space.parameters["recipe"] == Choice(("fast", "slow"))


def test_sections_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        ResourcesSection().cpus = 3.0  # type: ignore[misc]
    with pytest.raises(ValueError, match="found rungs"):
        StopSection(rungs=(3, 1))


def test_an_augmented_set_and_a_corpus_are_part_of_the_spec_and_of_the_jobs_task(tmp_path: Path) -> None:
    long = changed() + "augmented: {data: more}\ncorpus: {data: ../text.txt}\n"
    spec = load(tmp_path, long)
    assert load(tmp_path, changed() + "augmented: more\ncorpus: ../text.txt\n") == spec
    assert spec.augmented is not None
    assert spec.task_arguments()["augmented"] == spec.augmented.data == str(tmp_path / "more")
    assert spec.task_arguments()["corpus"] == str(tmp_path.parent / "text.txt")
    assert spec.to_json()["corpus"] == {"data": str(tmp_path.parent / "text.txt")}
    assert again(tmp_path, spec) == spec
    plain = load(tmp_path)
    assert (plain.augmented, plain.corpus) == (None, None)
    assert {"augmented", "corpus"} & {*plain.to_json(), *plain.task_arguments()} == set()
    assert len({plain.hash(), spec.hash(), load(tmp_path, long, "corpus.data=other.txt").hash()}) == 3


def test_a_plan_reads_the_augmented_set_and_the_corpus_once(tmp_path: Path) -> None:
    text = changed() + "augmented: more.csv\ncorpus: text.txt\n"
    more, corpus = tmp_path / "more.csv", tmp_path / "text.txt"
    more.write_text("text,label\nthe dogs run,acceptable\nthe dogs runs,wrong\n")
    corpus.write_bytes(b"One.\n\xff\n")
    assert problems(tmp_path, text) == [
        "sweep.yaml:15: augmented: more.csv:3: label: found 'wrong', expected one of 'unacceptable', 'acceptable'",
        "sweep.yaml:16: corpus: text.txt:2: bytes: found b'\\xff\\n', expected UTF-8",
    ]
    more.write_text("text,label\nthe dogs run,acceptable\n")
    corpus.write_text("\n \n")
    assert problems(tmp_path, text) == [
        "sweep.yaml:16: corpus: text.txt: found blank lines only, expected one sentence a line"
    ]
    corpus.write_text("One.\n\nTwo.\n")
    first = plan(tmp_path, text)
    assert first.task.corpus == corpus
    more.write_text("text,label\nthe cats run,acceptable\n")
    assert len({first.hash(), plan(tmp_path, text).hash(), plan(tmp_path).hash()}) == 3


def test_a_corpus_may_be_a_folder_of_blocks(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("a b c\nd e\n")
    run = LocalRun(tmp_path / "run")
    corpus_blocks(tmp_path / "text.txt", word_tokenizer(tmp_path / "words"), 8, run)
    (stored,) = (tmp_path / "run" / "store").glob("blocks-*")
    stored.rename(tmp_path / "cut")
    text = changed() + "corpus: {data: cut}\n"
    first = plan(tmp_path, text)
    assert first.task.corpus == tmp_path / "cut"
    assert plan(tmp_path, text).hash() == first.hash() != plan(tmp_path).hash()
    (tmp_path / "cut" / "00000" / "tokens.npy").unlink()
    (found,) = problems(tmp_path, text)
    assert found.startswith("sweep.yaml:15: corpus: cut/00000: found content ")
    assert found.endswith("the files have changed; preprocess anew")
