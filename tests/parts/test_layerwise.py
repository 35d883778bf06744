"""The losses between layers against plain loops over examples, layers, heads and tokens; and the original's numbers."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from methods.parts.bert import Bert
from methods.parts.knowledge import live
from methods.parts.layerwise import Layerwise, SeparateProjections, teacher_states, weighted
from methods.parts.layout import Layout
from methods.parts.losses import Term
from tests.parts import mud_parity
from tests.parts.tiny import collated
from tests.strategies import normal, random_bert

golden = pytest.mark.skipif(
    not mud_parity.GOLDEN.exists(), reason=f"no {mud_parity.GOLDEN.name} under $DISTILSWEEP_SHARED"
)
TEACHER = Layout.uniform(vocab=30, positions=12, hidden=8, num_layers=4, heads=2, head_width=4, ffn=10)
STUDENT = replace(TEACHER, hidden=6, layers=(replace(TEACHER.layers[0], head_width=3),) * 2)
BATCH = collated([0, 1, 4])
MAPS = {"uniform": (0, 2, 4), "top": (0, 3, 4), "bottom": (0, 1, 2)}


def terms_of(layerwise: Layerwise, student: Bert, teacher: Bert, seed: int = 0) -> dict[str, Term]:
    knowledge = live(teacher, layerwise.selection(student.layout, teacher.layout))
    projection = layerwise.projection(student.layout, teacher.layout, seed)
    (terms,) = layerwise.losses(student, projection, knowledge)(BATCH)
    return {term.name: term for term in terms}


def value(term: Term) -> float:
    return float(term.weight * term.sum.detach() / BATCH.sizes[term.per])


def squares(mine: Tensor, theirs: Tensor) -> float:
    """The mean squared difference of two vectors."""
    return sum(float(a - b) ** 2 for a, b in zip(mine, theirs, strict=True)) / len(mine)


def real_places(row: int) -> list[int]:
    return [place for place in range(BATCH.input_ids.shape[1]) if BATCH.attention_mask[row, place]]


def state_loss(mine: Tensor, theirs: Tensor) -> float:
    """The mean over real tokens."""
    places = [(row, place) for row in range(len(BATCH.input_ids)) for place in real_places(row)]
    return sum(squares(mine[place], theirs[place]) for place in places) / len(places)


def score_loss(mine: Tensor, theirs: Tensor) -> float:
    """The mean over examples of the mean over pairs of real tokens."""
    means = []
    for row in range(len(mine)):
        pairs = [(query, key) for query in real_places(row) for key in real_places(row)]
        means.append(sum(squares(mine[row, :, q, k], theirs[row, :, q, k]) for q, k in pairs) / len(pairs))
    return sum(means) / len(means)


@pytest.mark.parametrize("projections", ["shared", "separate"])
@pytest.mark.parametrize("layer_map", list(MAPS))
def test_the_losses_are_those_of_plain_loops(layer_map: str, projections: str) -> None:
    layerwise = Layerwise(layer_map=layer_map, projections=projections, hidden_weight=0.5)
    student, teacher = random_bert(STUDENT, seed=1), random_bert(TEACHER, seed=2)
    found = terms_of(layerwise, student, teacher)
    projection = layerwise.projection(STUDENT, TEACHER, 0)
    with torch.no_grad():
        mine, theirs = (model(BATCH, hidden=True, scores=True) for model in (student, teacher))
        states = projection(mine.hidden)
    above = MAPS[layer_map][1:]
    hidden = sum(state_loss(states[m], theirs.hidden[g]) for m, g in enumerate(above, 1))
    attention = sum(score_loss(mine.scores[m], theirs.scores[g - 1]) for m, g in enumerate(above))
    assert value(found["embedding"]) == pytest.approx(state_loss(states[0], theirs.hidden[0]), rel=1e-5)
    assert value(found["hidden"]) == pytest.approx(0.5 * hidden, rel=1e-5)
    assert value(found["attention"]) == pytest.approx(attention, rel=1e-5)


@pytest.mark.parametrize("left_out", ["attention", "hidden", "embedding"])
def test_a_weight_of_zero_leaves_its_loss_out_and_no_other(left_out: str) -> None:
    student, teacher = random_bert(STUDENT, seed=1), random_bert(TEACHER, seed=2)
    every = terms_of(Layerwise(), student, teacher)
    some = terms_of(replace(Layerwise(), **{f"{left_out}_weight": 0.0}), student, teacher)
    assert set(every) - set(some) == {left_out}
    assert all(value(some[name]) == value(every[name]) for name in some)


def test_a_teacher_runs_no_deeper_than_needed() -> None:
    assert Layerwise(layer_map="bottom").selection(STUDENT, TEACHER).depth(4) == 2
    only = Layerwise(attention_weight=0.0, hidden_weight=0.0).selection(STUDENT, TEACHER)
    assert (only.states, only.scores, only.depth(4)) == ((0,), (), 0)
    assert not Layerwise(attention_weight=0.0, hidden_weight=0.0, embedding_weight=0.0)


def test_maps_of_twelve_layers() -> None:
    assert teacher_states("uniform", 12, 4) == (0, 3, 6, 9, 12)
    assert teacher_states("top", 12, 4) == (0, 9, 10, 11, 12)
    assert teacher_states("bottom", 12, 4) == (0, 1, 2, 3, 4)
    assert teacher_states("uniform", 12, 5) == (0, 2, 4, 7, 9, 12)
    for rule in MAPS:
        for layers in range(1, 13):
            states = teacher_states(rule, 12, layers)
            assert (len(states), states[0]) == (layers + 1, 0)
            assert sorted(set(states)) == list(states)


def test_separate_projections_have_no_bias_and_one_of_their_own_for_embeddings() -> None:
    projection = SeparateProjections(3, 5, seed=0)
    assert sorted(name for name, _ in projection.named_parameters()) == [
        "embedding.dense.weight",
        "hidden.dense.weight",
    ]
    states = [normal(seed, 2, 4, 3) for seed in (1, 2, 3)]
    found = projection(states)
    for number, name in enumerate(("embedding", "hidden", "hidden")):
        weight = projection.get_parameter(f"{name}.dense.weight")
        torch.testing.assert_close(found[number], states[number] @ weight.T)
    assert not torch.equal(projection.get_parameter("embedding.dense.weight"), weight)


def test_weighted_losses_are_the_same_but_for_their_weight() -> None:
    (terms,) = weighted(lambda _: iter([[Term("x", torch.tensor(2.0), "examples", 0.5)]]), 3.0)(BATCH)
    assert [(term.name, term.weight) for term in terms] == [("x", 1.5)]


def test_what_cannot_be_compared_is_refused() -> None:
    wide = replace(STUDENT, layers=(replace(TEACHER.layers[0], heads=3),) * 2)
    with pytest.raises(ValueError, match="heads: found 3, layer 2 of the teacher has 2"):
        Layerwise().selection(wide, TEACHER)
    assert not Layerwise(attention_weight=0.0).selection(wide, TEACHER).scores
    with pytest.raises(ValueError, match="layers: found 4, allowed are 1 to the teacher's 2"):
        Layerwise().selection(TEACHER, STUDENT)
    with pytest.raises(ValueError, match="layer_map: found 'middle'"):
        Layerwise(layer_map="middle")
    with pytest.raises(ValueError, match="projections: found 'none'"):
        Layerwise(projections="none")
    with pytest.raises(ValueError, match=r"hidden_weight: found -1\.0"):
        Layerwise(hidden_weight=-1.0)


@pytest.mark.shared
@golden
def test_the_original_s_numbers_are_reproduced() -> None:
    world = mud_parity.open_world()
    student, teacher, batch = world.student("tiny4"), world.student("teacher12").model, world.batch("pair")
    assert student.projection is not None
    layerwise = Layerwise(padding=True)
    knowledge = live(teacher, layerwise.selection(student.model.layout, teacher.layout))
    (terms,) = layerwise.losses(student.model.eval(), student.projection, knowledge)(batch)  # type: ignore[arg-type]
    found = {term.name: float(term.sum.detach() / batch.sizes[term.per]) for term in terms}
    per_state = world.arrays["case.depth.tiny4.top12.all.loss_per_layer"]
    assert found["attention"] == pytest.approx(float(world.arrays["tinybert.att_loss.tiny4"]), rel=1e-6)
    assert found["embedding"] == pytest.approx(float(per_state[0]), rel=1e-6)
    assert found["hidden"] == pytest.approx(float(per_state[1:].sum()), rel=1e-6)
