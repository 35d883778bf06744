"""A teacher's classes are the task's, are permuted, or it is refused; a changed byte changes its hash."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from methods.parts.batches import collate
from methods.parts.glue import CATALOGUE
from methods.parts.layout import Layout
from methods.parts.teacher import Teacher, check_labels, checkpoint_fingerprint, permute_classifier
from tests.parts.encoded import encoded
from tests.parts.tiny import tiny_bert, tiny_layout

MNLI = CATALOGUE["mnli"].labels


def ids(*names: str) -> dict[str, int]:
    return {name: number for number, name in enumerate(names)}


def test_the_same_names_whatever_their_case() -> None:
    order = check_labels(MNLI, {"CONTRADICTION": 2, "Entailment": 0, "neutral": 1})
    assert (order.permutation, order.note) == (None, "")


def test_another_order_is_a_permutation() -> None:
    assert check_labels(MNLI, ids("CONTRADICTION", "ENTAILMENT", "NEUTRAL")).permutation == (1, 2, 0)
    assert check_labels(("entailment", "not_entailment"), ids("not_entailment", "entailment")).permutation == (1, 0)


@pytest.mark.parametrize("names", [("LABEL_0", "LABEL_1"), ("0", "1"), ("label0", "label1")])
def test_generic_names_are_believed_with_a_note(names: tuple[str, ...]) -> None:
    order = check_labels(("negative", "positive"), ids(*names))
    assert order.permutation is None
    assert "negative, positive" in order.note


def test_regression_has_one_output_of_any_name() -> None:
    assert check_labels((), ids("LABEL_0")).permutation is None
    assert check_labels((), ids("similarity")).permutation is None


@pytest.mark.parametrize(
    ("task", "names", "message"),
    [
        (
            MNLI,
            ("negative", "positive"),
            "found 2 outputs, expected 3: the checkpoint has negative, positive; the task has ent",
        ),
        (("negative", "positive"), ("joy", "anger"), "other names: .* joy, anger; the task has negative, positive"),
        ((), ("no", "yes"), r"found 2 outputs, expected 1: .* no, yes; the task has a single number \(regression\)"),
        (("a", "b"), ("LABEL_0",), "found 1 outputs, expected 2"),
    ],
)
def test_a_teacher_of_another_task_is_refused(task: tuple[str, ...], names: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_labels(task, ids(*names))


@given(st.permutations(range(3)))
def test_a_permuted_classifier_gives_permuted_logits(permutation: list[int]) -> None:
    layout = Layout.from_json({**tiny_layout().to_json(), "labels": 3})
    model = tiny_bert(layout=layout).eval()
    assert model.classifier is not None
    with torch.no_grad():
        model.classifier.bias.copy_(torch.tensor([1.0, 2.0, 3.0]))
        batch = collate(encoded([3, 5]), encoded([3, 5]).rows)
        before = model(batch).logits
        permute_classifier(model, permutation)
        assert torch.equal(model(batch).logits, before[:, permutation])
    wanted = ("c", "a", "b")
    theirs = tuple(wanted[permutation.index(place)] for place in range(3))
    order = check_labels(wanted, ids(*theirs)).permutation or (0, 1, 2)
    assert list(order) == permutation


def test_what_is_no_permutation_is_refused() -> None:
    with pytest.raises(ValueError, match=r"permutation: found \(0, 0\), allowed is an order of the model's 2 outputs"):
        permute_classifier(tiny_bert(), (0, 0))
    headless = tiny_bert(layout=Layout.from_json({**tiny_layout().to_json(), "labels": 0}))
    with pytest.raises(ValueError, match="the model's 0 outputs"):
        permute_classifier(headless, (0, 1))


def test_the_fingerprint_follows_weights_and_configuration(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"looked for config\.json and model\.safetensors; .* holds nothing"):
        checkpoint_fingerprint(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    first = checkpoint_fingerprint(tmp_path)
    (tmp_path / "README.md").touch()
    assert checkpoint_fingerprint(tmp_path) == first
    (tmp_path / "model.safetensors").write_bytes(b"Weights")
    second = checkpoint_fingerprint(tmp_path)
    (tmp_path / "config.json").write_text("{ }")
    assert len({first, second, checkpoint_fingerprint(tmp_path)}) == 3


def test_a_teacher_is_a_value(tmp_path: Path) -> None:
    teachers = [
        Teacher(
            base=tmp_path,
            tuned=tmp_path,
            layout=tiny_layout(),
            labels=("a", "b"),
            tokenizer=tmp_path,
            head="plain",
            fingerprint="f",
        )
        for _ in range(2)
    ]
    assert teachers[0] == teachers[1]
