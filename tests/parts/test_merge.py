import math
from pathlib import Path

import pytest
import torch
from transformers import BertForMaskedLM

from methods.parts.bert import Bert
from methods.parts.checkpoint import load, save
from methods.parts.compaction import masked_compactors
from methods.parts.compactors import CompactedBert
from methods.parts.mask_groups import Narrowing
from methods.parts.merge import leak, merge, merged_layout
from tests.parts.test_compactors import LAYOUT, compacted, places
from tests.strategies import rows

STRATEGIES = pytest.mark.parametrize("strategy", ["dim", "head"])


def narrowed(strategy: str, compat: tuple[str, ...] = (), number: int = 99) -> CompactedBert:
    model = compacted(compat=compat)
    narrowing = Narrowing(layout=LAYOUT, target=8, strategy=strategy)
    model.set_masks(narrowing.select(dict(model.named_compactors()), number))
    return model


def emptied(model: CompactedBert, *, all_of_it: bool) -> CompactedBert:
    """Set what is cut to 0: everywhere, or only where it reaches what is kept."""
    kept = {id(parameter): name for name, parameter in model.named_compactors()}
    with torch.no_grad():
        for parameter, mask in masked_compactors(model):
            name = kept[id(parameter)]
            if all_of_it or name.endswith((".in", "query.out", "key.out")):
                parameter.mul_(mask)
    return model


def distance(model: Bert, other: Bert) -> float:
    batch = rows(LAYOUT)
    with torch.no_grad():
        return float((model.mlm_logits(batch, places(batch)) - other.mlm_logits(batch, places(batch))).abs().max())


@STRATEGIES
@pytest.mark.parametrize("compat", [(), ("uer-layernorm",)])
@pytest.mark.parametrize("all_of_it", [True, False])
def test_the_student_computes_what_the_compacted_model_does(
    strategy: str, compat: tuple[str, ...], all_of_it: bool
) -> None:
    model = emptied(narrowed(strategy, compat), all_of_it=all_of_it)
    student = merge(model, tolerance=0.0)
    scale = float(model.mlm_logits(rows(LAYOUT), places(rows(LAYOUT))).detach().abs().max())
    assert distance(model, student) <= (1e-4 if compat else 1e-5) * max(scale, 1.0)  # UER's epsilon is not the root's
    assert student.layout.hidden == 8
    assert student.layout.layers == Narrowing(layout=LAYOUT, target=8, strategy=strategy).student.layers


@STRATEGIES
def test_what_is_cut_has_no_part_in_the_student(strategy: str) -> None:
    leaky = merge(narrowed(strategy), hard_zero=True).state_dict()
    exact = merge(emptied(narrowed(strategy), all_of_it=True)).state_dict()
    assert all(torch.equal(leaky[name], value) for name, value in exact.items())


def test_queries_without_their_scale_would_be_wrong() -> None:
    model = emptied(narrowed("dim"), all_of_it=True)
    student = merge(model)
    with torch.no_grad():
        for layer in student.layers:
            layer.attention.self.query.weight.mul_(math.sqrt(2))
            layer.attention.self.query.bias.mul_(math.sqrt(2))
    assert distance(model, student) > 1e-2


def test_values_that_are_not_zero_are_refused_unless_told() -> None:
    model = narrowed("dim")
    found = leak(model)
    assert found > 0.5
    with pytest.raises(ValueError, match=r"merge: found values up to .* allowed are 0.0001; train longer"):
        merge(model)
    merge(model, tolerance=found)
    merge(model, hard_zero=True)
    assert leak(compacted()) == 0.0


def test_masks_on_their_way_are_refused() -> None:
    with pytest.raises(ValueError, match=r"dimensions of the states and \d+ of the words"):
        merged_layout(narrowed("dim", number=1))
    model = compacted()
    model.set_masks({"attention.1": torch.arange(16) < 6})
    with pytest.raises(ValueError, match=r"layer 1: found heads that keep \[4, 2, 0, 0\] dimensions"):
        merged_layout(model)


def test_nothing_cut_is_the_model_itself() -> None:
    model = compacted()
    assert distance(model, merge(model)) < 1e-5


def test_stock_transformers_opens_the_student(tmp_path: Path) -> None:
    model = emptied(narrowed("head"), all_of_it=True)
    student = merge(model).eval()
    save(student, tmp_path / "student")
    stock, report = BertForMaskedLM.from_pretrained(tmp_path / "student", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    batch, again = rows(LAYOUT), load(tmp_path / "student", masked_lm=True)
    assert again.layout == student.layout
    with torch.no_grad():
        logits = stock.eval()(batch.input_ids, batch.attention_mask, batch.token_type_ids).logits[places(batch)]
        torch.testing.assert_close(logits, student.mlm_logits(batch, places(batch)), rtol=1e-4, atol=1e-5)
        assert torch.equal(again.mlm_logits(batch, places(batch)), student.mlm_logits(batch, places(batch)))
    assert load(tmp_path / "student", labels=3).layout.labels == 3
