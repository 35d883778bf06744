import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from methods import rosita
from methods.parts.bert import Bert
from methods.parts.course import Course, selected
from methods.parts.importance import TaylorScores
from methods.parts.iterative import Line, fit_pruning
from methods.parts.knowledge import live
from methods.parts.loop import fit
from methods.parts.prune_schedule import Prune
from methods.parts.recipe import Recipe
from methods.parts.run import LocalRun
from methods.parts.splits import Splits
from methods.parts.surgery import narrower
from methods.parts.training import Training
from tests.parts import rosita_parity
from tests.parts.encoded import encoded, written, written_task
from tests.parts.test_loop_parity import PARITY, Golden, last


@pytest.mark.shared
@PARITY
def test_every_item_of_the_original_code_is_reproduced() -> None:
    rows = list(rosita_parity.parity())
    assert len(rows) > 100
    wrong = [(item, largest, limit) for item, largest, limit in rows if not largest <= limit]
    assert not wrong


def course() -> Course:
    """What decides the losses of the golden run; its rows are never read."""
    rows = encoded([3, 3])
    splits = Splits(train=rows, search=rows, held=rows)
    return Course(task=written_task(written(["a", "b"])), splits=splits, compat=("padding",))


@pytest.mark.shared
@PARITY
def test_the_stages_score_under_a_teacher_as_the_original_does(tmp_path: Path) -> None:
    """Variant B: the recipe of setting 2's scoring, the loss of its stages, the golden batches in the one loop."""
    golden = dict(np.load(rosita_parity.GOLDEN))
    case = rosita_parity.golden_case(golden)
    teacher, model = (rosita_parity.with_head(each, "relu") for each in (case.teacher, case.student))
    scores, run = TaylorScores("final"), LocalRun(tmp_path)
    training = Training(
        model=model,
        data=Golden(case.batches, 1),
        losses=course().losses(model, live(teacher, selected(4, 4, hidden=False))),
        before_step=lambda _step, _optimizer: scores.observe(model),
        report_every=1,
    )
    with run.stage("importance") as stage:
        fit(training, rosita.stages_of(rosita.Config(setting=2))[2], stage, run)
    losses = [report.metrics["train/loss"] for report in run.reports]
    assert losses == pytest.approx(golden["B.losses"].tolist(), rel=1e-4)
    found = scores.scores(model, per_step=True)
    assert rosita_parity.error(torch.stack(found.heads), golden["B.head_score"]) < 1e-4
    assert rosita_parity.error(torch.stack(found.neurons), golden["B.ffn_score"]) < 1e-4


@pytest.mark.shared
@PARITY
def test_iterative_pruning_cuts_as_the_original_program(tmp_path: Path) -> None:
    """Variant C and Q: three updates on both losses, then one prune by the gradients gathered meanwhile."""
    golden = dict(np.load(rosita_parity.GOLDEN))
    case = rosita_parity.golden_case(golden)
    teacher, student = (rosita_parity.with_head(each, "relu") for each in (case.teacher, case.student))
    student = last(rosita_parity.cut_to("P", student, last(rosita_parity.variant_a(case)), case.first))
    known = live(teacher, selected(4, 2, hidden=True))
    models: list[tuple[Bert, dict[str, torch.Tensor]]] = []

    def training(model: Bert) -> Training:
        losses = course().losses(model, known, (1.0, 1.0))
        models.append((model, {name: value.clone() for name, value in model.state_dict().items()}))
        return Training(model=model, data=Golden([*case.batches] * 7, 1), losses=losses)

    recipe = Recipe(total_steps=20, lr=1e-3, warmup=0.1, weight_decay=0.01, optimizer="bert_adam", clip="tensor")
    heads, layers, ffn, rank = case.second
    prunes = [Prune(3, narrower(student.layout, heads=heads, layers=layers, ffn=ffn, rank=rank))]
    fit_pruning(student, Line(name="width", training=training, recipe=recipe, prunes=prunes), LocalRun(tmp_path))
    (before, _), (after, state) = models
    for name, value in rosita_parity.parameters("P3", before):
        assert rosita_parity.error(value, golden[name]) < 1e-4, name
    after.load_state_dict(state)  # the training went on with it
    assert rosita_parity.error(rosita_parity.product(after), golden["Q.emb_product"]) < 1e-4
    assert rosita_parity.error(after(case.batches[0]).logits, golden["Q.out.logits"]) < 1e-4
    for number, kept in enumerate(golden["Q.kept_neurons"].tolist()):
        wanted = before.layers[number].intermediate.dense.bias[kept]
        assert torch.equal(state[f"bert.encoder.layer.{number}.intermediate.dense.bias"], wanted)


def test_the_chain_gives_the_frozen_numbers() -> None:
    frozen = json.loads(rosita_parity.FROZEN.read_text(encoding="utf-8"))
    found = rosita_parity.frozen_items()
    assert found.keys() == frozen.keys()
    for name, wanted in frozen.items():
        if rosita_parity.tolerance(name) == 0.0:
            assert found[name] == wanted, name
        else:
            torch.testing.assert_close(torch.tensor(found[name]), torch.tensor(wanted), rtol=1e-4, atol=1e-5, msg=name)


def test_a_wrong_number_is_seen() -> None:
    exact, close = torch.tensor([1, 2]), torch.tensor([1.0, 2.0])
    assert rosita_parity.error(exact, torch.tensor([2, 1]).numpy()) == 2.0
    assert math.isclose(rosita_parity.error(close, torch.tensor([1.0, 2.5]).numpy()), 0.2)
