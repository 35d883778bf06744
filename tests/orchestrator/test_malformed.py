"""Everything a user may write wrongly ends in one clear line: file, line, key, what was found, what is allowed."""

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tests.strategies  # noqa: F401  its hypothesis profile
from orchestrator import cli
from orchestrator.yamlfile import dump
from tests.conftest import ROOT
from tests.orchestrator.sweepfiles import VALID, changed, problems

SPACE = "heads: {int: [1, 4]}"
START = "{heads: 2, layers: 2}"
OVER = "override "

SWEEP_FILES: list[tuple[str, str, str]] = [
    # the file as a whole
    ("empty", "", "sweep.yaml: the file is empty; a mapping"),
    ("a list", "- name: x\n", 'sweep.yaml: found [{"name": "x"}]; a mapping'),
    ("a tab", changed(("  architecture", "\tarchitecture")), "sweep.yaml:4: not YAML: found a tab; indent with spaces"),
    ("two documents", VALID + "---\nname: b\n", "not YAML: expected a single document"),
    ("an anchor", changed(("{recipe: fast}", "&a {recipe: fast}")), "sweep.yaml:7: found the anchor &a; values only"),
    ("a tag", changed(("{recipe: fast}", "!!python/dict {}")), "sweep.yaml:7: found the tag"),
    (
        "nothing but the name",
        "name: small\n",
        "sweep.yaml: the key 'task' is missing; required: name, task, teacher, method",
    ),
    ("unknown key", VALID + "serach: {}\n", "sweep.yaml:15: serach: no such key; allowed: name, task"),
    ("its nearest", VALID + "serach: {}\n", "did you mean 'search'?"),
    (
        "a key twice",
        VALID + "name: b\n",
        "sweep.yaml:15: name: the key is given twice, first at sweep.yaml:1; keep one",
    ),
    ("a corpus without a path", VALID + "corpus: {}\n", "sweep.yaml:15: corpus.data: missing"),
    ("a corpus that is not there", VALID + "corpus: no.txt\n", "sweep.yaml:15: corpus: looked for no.txt, a text file"),
    ("a corpus as a list", VALID + "corpus: [a]\n", 'sweep.yaml:15: corpus: found ["a"]; a mapping with the keys data'),
    (
        "augmented data that is not there",
        VALID + "augmented: {data: x}\n",
        "sweep.yaml:15: augmented: looked for files ending in .csv, .tsv, .jsonl, .parquet at x; x is not there",
    ),
    (
        "augmented data with a key",
        VALID + "augmented: {data: x, limit: 3}\n",
        "sweep.yaml:15: augmented.limit: no such key; allowed: data",
    ),
    (
        "augmented data as a number",
        VALID + "augmented: {data: 3}\n",
        "sweep.yaml:15: augmented.data: found 3; text is due",
    ),
    # the name
    (
        "path as name",
        changed(("name: small", "name: ../../etc")),
        'sweep.yaml:1: name: found "../../etc"; a name of 1 to 80',
    ),
    ("absolute name", changed(("name: small", "name: /tmp/x")), 'sweep.yaml:1: name: found "/tmp/x"'),
    ("dots as name", changed(("name: small", 'name: ".."')), 'sweep.yaml:1: name: found ".."'),
    ("name as truth", changed(("name: small", "name: on")), "sweep.yaml:1: name: 'on' is a truth value in YAML"),
    ("name as number", changed(("name: small", "name: 12")), "sweep.yaml:1: name: found 12; a name of 1 to 80"),
    ("no name", changed(("name: small", "name:")), "sweep.yaml:1: name: found null"),
    ("a taken name", changed(("name: small", "name: store")), "sweep.yaml:1: name: the name 'store' is taken"),
    # task and teacher
    ("unknown task", changed(("task: agreement", "task: agrement")), "did you mean 'agreement'?"),
    (
        "task as number",
        changed(("task: agreement", "task: 3")),
        "sweep.yaml:2: task: found 3; a mapping with the keys name,",
    ),
    (
        "task without name",
        changed(("task: agreement", "task: {limit: 4}")),
        "sweep.yaml:2: task.name: missing",
    ),
    (
        "task key",
        changed(("task: agreement", "task: {name: agreement, lenght: 4}")),
        "sweep.yaml:2: task.lenght: no such key",
    ),
    (
        "task limit",
        changed(("task: agreement", "task: {name: agreement, limit: 0}")),
        "sweep.yaml:2: task.limit: found 0; a number of at least 1 is due",
    ),
    (
        "length as text",
        changed(("task: agreement", 'task: {name: agreement, max_length: "64"}')),
        "sweep.yaml:2: task.max_length: '64' is text in YAML; write 64 (a whole number is due)",
    ),
    ("wrong metric", changed(("task: agreement", "task: {name: agreement, metric: acuracy}")), "sweep.yaml:2: task: "),
    ("no data", changed(("task: agreement", "task: {name: sst2, data: nowhere}")), "sweep.yaml:2: task: "),
    (
        "two teachers",
        changed(("finetune: {epochs: 1}", "model: bert")),
        "sweep.yaml:3: teacher: found model, architecture of model, package and architecture; exactly one is due",
    ),
    (
        "heads of a teacher",
        changed(("heads: 4, hidden: 32", "heads: 5, hidden: 32")),
        "sweep.yaml:4: teacher.architecture: found hidden 32 and 5 heads; a multiple of the heads is due",
    ),
    (
        "vocabulary",
        changed(("task: agreement", "task: {name: sst2, data: SST-2}")),
        "sweep.yaml:3: teacher: architecture.vocab: missing; only agreement, agreement-pair have",
    ),
    ("teacher's key", changed(("epochs: 1", "epoch: 1")), "sweep.yaml:5: teacher.finetune.epoch: no such field"),
    (
        "teacher's range",
        changed(("epochs: 1", "epochs: -1")),
        "sweep.yaml:5: teacher.finetune.epochs: found -1.0",
    ),
    (
        "package path",
        changed(("architecture: {layers: 4, heads: 4, hidden: 32, ffn_dim: 64, positions: 64}", "package: ../x")),
        'sweep.yaml:4: teacher.package: found "../x"; the name of a Python package is due',
    ),
    # the method and its values
    (
        "unknown method",
        changed(("method: shrink", "method: shrnk")),
        'sweep.yaml:6: method: found "shrnk"; no such method',
    ),
    ("its nearest", changed(("method: shrink", "method: shrnk")), "allowed: finetune, shrink; did you mean 'shrink'?"),
    (
        "method as list",
        changed(("method: shrink", "method: [shrink]")),
        'sweep.yaml:6: method: found ["shrink"]; the name',
    ),
    ("module as method", changed(("method: shrink", "method: os.path")), 'sweep.yaml:6: method: found "os.path"'),
    (
        "methods and fixed",
        changed(("method: shrink", "method: {shrink: {}}")),
        "sweep.yaml:7: fixed: with a mapping of",
    ),
    (
        "unknown field",
        changed(("{recipe: fast}", "{hedas: 2}")),
        "sweep.yaml:7: fixed.hedas: no such field in methods.shrink",
    ),
    ("unknown recipe", changed(("recipe: fast", "recipe: fsat")), "allowed: fast, slow; did you mean 'fast'?"),
    (
        "number as text",
        changed(("recipe: fast", "prune_period: 3e-5")),
        "sweep.yaml:7: fixed.prune_period: '3e-5' is text in YAML; write 3.0e-5 (",
    ),
    (
        "number for truth",
        changed(("recipe: fast", "tied: 1")),
        "sweep.yaml:7: fixed.tied: found 1; true or false is due",
    ),
    ("truth for text", changed(("recipe: fast", "note: true")), "sweep.yaml:7: fixed.note: found true; text is due"),
    (
        "outside a literal",
        changed(("recipe: fast", 'mode: "1"')),
        'sweep.yaml:7: fixed.mode: found "1"; one of 1, none is due',
    ),
    (
        "a wrong list",
        changed(("recipe: fast", "widths: [1, x]")),
        'fixed.widths: found [1, "x"]; a list (each a whole number)',
    ),
    (
        "refused by Config",
        changed(("recipe: fast", "heads: 0"), (SPACE, "rank: {int: [1, 4]}"), (START, "{}")),
        "sweep.yaml:7: fixed.heads: found 0, allowed is at least 1",
    ),
    (
        "refused together",
        changed(("recipe: fast", "note: x, widths: [1, 2, 3]")),
        "sweep.yaml:7: fixed: no sample is allowed: found a note and 3 widths",
    ),
    (
        "fixed and varied",
        changed(("recipe: fast", "heads: 2")),
        "sweep.yaml:9: space.heads: found in fixed as well; keep one",
    ),
    # the space
    ("no space", changed().partition("space:")[0], "sweep.yaml: the key 'space' is missing; nothing would vary"),
    (
        "an empty space",
        changed().partition("space:")[0] + "space: {}\n",
        "sweep.yaml:8: space: found {}; a mapping of names",
    ),
    ("unknown parameter", changed((SPACE, "haeds: {int: [1, 4]}")), "sweep.yaml:9: space.haeds: no such field"),
    (
        "low above high",
        changed((SPACE, "heads: {int: [4, 1]}")),
        "sweep.yaml:9: space.heads.int: found the range 4 to 1",
    ),
    (
        "step",
        changed((SPACE, "heads: {int: [1, 4], step: 2}")),
        "space.heads.int: the step 2 does not lead from 1 to 4",
    ),
    (
        "large step",
        changed((SPACE, "heads: {int: [1, 4], step: 9}")),
        "space.heads.int: the step 9 exceeds the range 1 to 4",
    ),
    (
        "log of zero",
        changed((SPACE, "heads: {int: [0, 4], log: true}")),
        "space.heads.int: found the lower end 0 on a log",
    ),
    (
        "no choice",
        changed((SPACE, "heads: {choice: []}")),
        "sweep.yaml:9: space.heads.choice: found []; at least one value",
    ),
    ("a choice twice", changed((SPACE, "heads: {choice: [1, 1]}")), "sweep.yaml:9: space.heads.choice: found 1 twice"),
    ("a constant", changed((SPACE, "heads: 3")), "sweep.yaml:9: space.heads: found 3; one of {choice: [...]}"),
    (
        "float for int",
        changed((SPACE, "heads: {float: [1, 4]}")),
        "sweep.yaml:9: space.heads.float[0]: found 1.0; a whole number",
    ),
    (
        "text for int",
        changed((SPACE, "heads: {choice: [1, two]}")),
        'sweep.yaml:9: space.heads.choice[1]: found "two"; a whole',
    ),
    (
        "never allowed",
        changed((SPACE, "heads: {int: [0, 4]}")),
        "sweep.yaml:9: space.heads.int[0]: 0 is never allowed: heads: found 0",
    ),
    (
        "when unknown",
        changed((SPACE, "heads: {int: [1, 4], when: {mod: [1]}}")),
        "space.heads.when.mod: no such parameter",
    ),
    (
        "when outside",
        changed((SPACE, "heads: {int: [1, 4], when: {layers: [3]}}")),
        "space.heads.when.layers: found 3; allowed: 1, 2, 4",
    ),
    (
        "when in a circle",
        changed((SPACE, "heads: {int: [1, 4], when: {layers: [1]}}"), ("[1, 2, 4]}", "[1, 2, 4], when: {heads: [1]}}")),
        "sweep.yaml:8: space: the conditions of heads, layers run in a circle",
    ),
    # objectives, budget, search, stop, resources, tracking
    (
        "objective",
        VALID + "objectives: {score: max, parms: min}\n",
        "sweep.yaml:15: objectives.parms: no such objective",
    ),
    (
        "no score",
        VALID + "objectives: {params: min}\n",
        "sweep.yaml:15: objectives: the score is missing; write score: max",
    ),
    ("direction", VALID + "objectives: {score: min}\n", 'sweep.yaml:15: objectives.score: found "min"; allowed: max'),
    (
        "unmeasured objective",
        VALID + "objectives: {score: max, latency_ms: min}\n",
        "sweep.yaml:15: objectives.latency_ms: is not measured",
    ),
    (
        "unknown cost",
        changed(("params: 30K", "parms: 30K")),
        "sweep.yaml:12: budget.parms: no such cost; allowed: params, bytes",
    ),
    (
        "no budget at all",
        changed(("params: 30K", "params: 0")),
        "sweep.yaml:12: budget.params: found 0; a number of at least 1",
    ),
    ("negative budget", changed(("params: 30K", "params: -5")), "sweep.yaml:12: budget.params: found -5"),
    (
        "wrong unit",
        changed(("params: 30K", "params: 30MB")),
        'budget.params: found "30MB"; a number of at least 1, or one with a unit',
    ),
    ("unmeasured cost", changed(("params: 30K", "latency_ms: 8")), "sweep.yaml:12: budget.latency_ms: is not measured"),
    (
        "too small a budget",
        changed(("params: 30K", "params: 30")),
        "sweep.yaml:12: budget.params: no design of shrink is feasible",
    ),
    (
        "no trials",
        changed(("trials: 4", "trials: 0")),
        "sweep.yaml:13: search.trials: found 0; a number of at least 1 is due",
    ),
    (
        "half a trial",
        changed(("trials: 4", "trials: 1.5")),
        "sweep.yaml:13: search.trials: found 1.5; a whole number is due",
    ),
    ("trials as text", changed(("trials: 4", "trials: 1e3")), "search.trials: '1e3' is text in YAML; write 1000"),
    (
        "unknown sampler",
        changed(("trials: 4", "sampler: tpee")),
        "found \"tpee\"; allowed: tpe, nsga2, random, grid; did you mean 'tpe'?",
    ),
    (
        "endless grid",
        changed(("trials: 4", "sampler: grid")),
        "search.sampler: the space of shrink has a range of real numbers",
    ),
    ("start outside", changed((START, "{heads: 9}")), "sweep.yaml:13: search.start[0].heads: found 9; allowed: 1 to 4"),
    (
        "start unknown",
        changed((START, "{haeds: 1}")),
        "search.start[0].haeds: no such parameter; allowed: heads, layers, lr",
    ),
    ("start of no method", changed((START, "{method: x}")), 'search.start[0].method: found "x"; allowed: shrink'),
    ("start as number", changed((START, "3")), "sweep.yaml:13: search.start[0]: found 3; a mapping is due"),
    (
        "many starts",
        changed((START, f"{START}, {START}"), ("trials: 4", "trials: 1")),
        "found 2 start points for 1 trials",
    ),
    (
        "falling rungs",
        VALID + "stop: {rungs: [3, 1]}\n",
        "sweep.yaml:15: stop: found rungs [3, 1]; whole numbers that increase",
    ),
    ("equal rungs", VALID + "stop: {rungs: [1, 1]}\n", "sweep.yaml:15: stop: found rungs [1, 1]"),
    (
        "zero rung",
        VALID + "stop: {rungs: [0, 1]}\n",
        "sweep.yaml:15: stop.rungs[0]: found 0; a number of at least 1 is due",
    ),
    (
        "rule",
        VALID + "stop: {rule: paretto}\n",
        'sweep.yaml:15: stop.rule: found "paretto"; allowed: pareto, none; did you',
    ),
    (
        "no workers",
        changed(("workers: 1", "workers: 0")),
        "sweep.yaml:14: resources.workers: found 0; a number of at least 1",
    ),
    (
        "many workers",
        changed(("workers: 1", "workers: 9999")),
        "sweep.yaml:14: resources.workers: a trial needs 9999 workers of 1 CPUs",
    ),
    (
        "many slots",
        changed(("workers: 1", "slots: 9999")),
        "sweep.yaml:14: resources.slots: found 9999; cluster 'local' has",
    ),
    (
        "odd slots",
        changed(("workers: 1", "slots: all")),
        'resources.slots: found "all"; auto or a whole number of at least 1',
    ),
    (
        "odd share",
        changed(("cpus: 1", "cpus: 1.5")),
        "resources.cpus: found 1.5; a number from 0.01 to 1, or a whole number, is due",
    ),
    (
        "no cpu",
        changed(("cpus: 1", "cpus: 0")),
        "sweep.yaml:14: resources.cpus: found 0; a number of more than 0 is due",
    ),
    ("gang", changed(("workers: 1", "gang: hot")), 'resources.gang: found "hot"; allowed: warm, fresh'),
    (
        "file store",
        VALID + "tracking: {uri: file:///x}\n",
        'sweep.yaml:15: tracking.uri: found "file:///x"; an address such as',
    ),
    (
        "null section",
        VALID + "tracking:\n",
        "sweep.yaml:15: tracking: found null; a mapping with the keys uri, experiment",
    ),
]

OVERRIDES: list[tuple[str, str]] = [
    ("trials", "override 'trials': a dotted key, '=' and a value are due"),
    (
        "search.trails=3",
        "override 'search.trails=3': search.trails: no such key; allowed: sampler, trials, seed, start; did",
    ),
    ("search.trials=many", "override 'search.trials=many': search.trials: found \"many\"; a whole number is due"),
    ("search.start.4.heads=1", "override 'search.start.4.heads=1': search.start[4].heads: search.start is a list of 1"),
    ("search.start.0.heads=8", "override 'search.start.0.heads=8': search.start[0].heads: found 8; allowed: 1 to 4"),
    ("name.x=1", "override 'name.x=1': name.x: name is \"small\", which has no key 'x'"),
    (
        "fixed.prune_period=3e-5",
        "override 'fixed.prune_period=3e-5': fixed.prune_period: '3e-5' is text in YAML; write 3.0e-5",
    ),
    ("space.heads=3", "override 'space.heads=3': space.heads: found 3; one of {choice"),
    ("task.data=[", "override 'task.data=[': task.data: not YAML"),
    ("resources.cpus=999", "override 'resources.cpus=999': resources.cpus: a trial needs 1 workers of 999 CPUs"),
    ("budget.params=1", "override 'budget.params=1': budget.params: no design of shrink is feasible"),
    ("name=../up", "override 'name=../up': name: found \"../up\"; a name of 1 to 80"),
]

GOOD_TABLE = "sentence\tlabel\nfine .\t1\nbad .\t0\n"
DATA_FILES: list[tuple[str, bytes, str]] = [
    ("a label that is none", b"sentence\tlabel\nfine .\t1\nbad .\t2\n", "train.tsv:3"),
    ("a missing column", b"sentence\tlabel\nfine .\n", "train.tsv:2"),
    ("no rows", b"sentence\tlabel\n", "found no rows, expected at least 1"),
    ("no text", b"", "train.tsv"),
    ("not UTF-8", b"sentence\tlabel\nfine \xff\t1\n", "train.tsv"),
]


def write_data(folder: Path, train: bytes) -> None:
    (folder / "SST-2").mkdir()
    (folder / "SST-2" / "dev.tsv").write_text(GOOD_TABLE)
    (folder / "SST-2" / "train.tsv").write_bytes(train)


@pytest.mark.parametrize(
    ("text", "line"), [(text, line) for _, text, line in SWEEP_FILES], ids=[row[0] for row in SWEEP_FILES]
)
def test_a_wrong_sweep_file_is_told_in_one_line(tmp_path: Path, text: str, line: str) -> None:
    write_data(tmp_path, GOOD_TABLE.encode())
    found = problems(tmp_path, text)
    matching = [one for one in found if line in one]
    assert len(matching) == 1, found
    assert matching[0].startswith("sweep.yaml")
    assert len(found) <= 4, "one mistake is told once, or with its direct consequences"


@pytest.mark.parametrize(("pair", "line"), OVERRIDES)
def test_a_wrong_override_is_named(tmp_path: Path, pair: str, line: str) -> None:
    found = problems(tmp_path, VALID, pair)
    assert len(found) == 1
    assert found[0].startswith(line)


@pytest.mark.parametrize(
    ("raw", "line"), [(raw, line) for _, raw, line in DATA_FILES], ids=[row[0] for row in DATA_FILES]
)
def test_wrong_data_is_told_with_file_and_line_before_anything_runs(tmp_path: Path, raw: bytes, line: str) -> None:
    write_data(tmp_path, raw)
    text = changed(("task: agreement", "task: {name: sst2, data: SST-2}"), ("ffn_dim: 64,", "ffn_dim: 64, vocab: 99,"))
    (found,) = problems(tmp_path, text)
    assert found.startswith("sweep.yaml:2: task: ")
    assert line in found


def test_the_valid_file_has_no_problem(tmp_path: Path) -> None:
    assert problems(tmp_path, VALID) == []


def test_one_mistake_hides_no_other(tmp_path: Path) -> None:
    text = changed(("name: small", "name: on"), (SPACE, "heads: {int: [4, 1]}"), ("trials: 4", "trials: 0"))
    found = problems(tmp_path, text + "stop: {rungs: [2, 1]}\n", "resources.gang=hot")
    assert [one.split(": ")[1] for one in found] == [
        "name",
        "space.heads.int",
        "search.trials",
        "stop",
        "resources.gang",
    ]


FULL = yaml.safe_load(
    changed((SPACE, "heads: {int: [1, 4], when: {layers: [1, 2]}}"))
    + "objectives: {score: max}\nstop: {rule: pareto, rungs: [1, 3], grace: 1}\ntracking: {experiment: e}\n"
)
ODD = [None, True, 0, -1, 3, 10**30, 0.5, 1e308, 1e-320, "", "on", "3e-5", "a\nb", "x" * 5000, "layers", [], {}, [[1]]]
ODD += [[2, 1], [None, None], {"a": 1}, {"int": [1, 2]}, {"choice": [1, "x\ny"]}, {"float": [0.1, 1], "log": True}]
UNTOUCHED = ("task", "teacher")
"""Keys whose own value stays, since another name would be looked for on a hub."""


def places(value: Any, key: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The key paths of all values below a value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for name, inner in items for place in ((*key, name), *places(inner, (*key, name)))]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(st.data())
def test_any_odd_value_anywhere_is_planned_or_told(tmp_path: Path, data: st.DataObject) -> None:
    text = copy.deepcopy(FULL)
    for _ in range(data.draw(st.integers(1, 2))):
        *way, last = data.draw(st.sampled_from([place for place in places(text) if place[-1] not in UNTOUCHED]))
        around = text
        for part in way:
            around = around[part]
        if data.draw(st.booleans()):
            around[last] = copy.deepcopy(data.draw(st.sampled_from(ODD)))
        else:
            del around[last]
    for line in problems(tmp_path, dump(text)):
        assert line.startswith("sweep.yaml")
        assert len(line) < 1500


@pytest.mark.parametrize(
    ("pairs", "line"),
    [
        (["search.trials=0"], "override 'search.trials=0': search.trials: found 0"),
        (["fixed.lrr=0.1"], "override 'fixed.lrr=0.1': fixed.lrr: no such field in methods.rosita.Config"),
        (["budget.params=10"], "override 'budget.params=10': budget.params: no design of rosita is feasible"),
        (
            ["resources.workers=5000"],
            "override 'resources.workers=5000': resources.workers: a trial needs 5000 workers",
        ),
    ],
)
def test_the_command_line_tells_it_and_ends_with_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], pairs: list[str], line: str
) -> None:
    monkeypatch.setattr(
        sys, "argv", ["distilsweep", "validate", str(ROOT / "search_spaces" / "quickstart.yaml"), *pairs]
    )
    with pytest.raises(SystemExit) as ended:
        cli.main()
    told = capsys.readouterr()
    assert ended.value.code == 2
    assert line in (told.err + told.out)
    assert "Traceback" not in told.err + told.out
