"""A space contains exactly what a walk through it can sample, counts it, and survives JSON."""

import json
import math
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tests.strategies  # noqa: F401  its hypothesis profile
from orchestrator.space import Choice, Float, Int, Parameter, Sample, Space, draw, grid
from orchestrator.spacefile import read_space
from orchestrator.wording import Key, dotted

NAMES = "abcdef"
scalars = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["x", "y", "1", ""]) | st.floats(-2, 2)


@st.composite
def parameters(draws: Callable[[Any], Any], earlier: dict[str, Parameter], kinds: str) -> Parameter:
    """A parameter that may depend on those before it."""
    when = {}
    for name, parameter in earlier.items():
        if isinstance(parameter, Choice | Int) and draws(st.integers(0, 3)) == 0:
            values = st.sampled_from(list(parameter.grid()))
            when[name] = tuple(draws(st.lists(values, min_size=1, max_size=2)))
    kind = draws(st.sampled_from(kinds.split()))
    if kind == "choice":
        return Choice(tuple(draws(st.lists(scalars, min_size=1, max_size=4, unique=True))), when)
    if kind == "int":
        low, step = draws(st.integers(-5, 5)), draws(st.integers(1, 3))
        return Int(low, low + step * draws(st.integers(1, 4)), step, when=when)
    if kind == "log":
        low = draws(st.integers(1, 5))
        return Int(low, low + draws(st.integers(0, 8)), log=True, when=when)
    low = draws(st.floats(0.125, 2))
    return Float(low, low + draws(st.floats(0, 3)), draws(st.booleans()), when)


@st.composite
def spaces(draws: Callable[[Any], Any], kinds: str = "choice int log float") -> Space:
    """Up to six parameters, in a random order of writing."""
    made: dict[str, Parameter] = {}
    for name in NAMES[: draws(st.integers(1, len(NAMES)))]:
        made[name] = draws(parameters(made, kinds))
    return Space({name: made[name] for name in draws(st.permutations(list(made)))})


def complaints(raw: object) -> list[str]:
    """What is wrong with the `space` of a sweep file."""
    found: list[tuple[Key, str]] = []
    space = read_space(raw, lambda key, text: found.append((key, text)))
    assert (space is None) == bool(found)
    return [f"{dotted(key)}: {text}" for key, text in found]


def reread(space: Space) -> Space | None:
    return read_space(json.loads(json.dumps(space.to_json())), lambda key, text: pytest.fail(f"{key}: {text}"))


@given(spaces(), st.integers(0, 9))
def test_a_space_contains_what_it_draws_and_nothing_more_or_less(space: Space, seed: int) -> None:
    sample = draw(space, random.Random(seed))
    assert space.contains(sample)
    assert space.faults(sample, partial=True) == []
    assert space.canonical(sample) == sample
    assert not space.contains({**sample, "stranger": 1})
    for name in sample:
        less = {other: value for other, value in sample.items() if other != name}
        assert not space.contains(less)
        assert space.faults(less, partial=True) == []
        assert draw(space, random.Random(0), less).keys() >= less.keys() or space.faults(less)
    for name in set(space.names) - set(sample):
        given_too_much = {**sample, name: next(iter(_values(space.parameters[name])))}
        assert not space.contains(given_too_much)


def _values(parameter: Parameter) -> list[Any]:
    return [parameter.low] if isinstance(parameter, Float) else list(parameter.grid())


@given(spaces())
def test_every_condition_is_decided_before_it_is_needed(space: Space) -> None:
    for index, name in enumerate(space.names):
        assert set(space.parameters[name].when) <= set(space.names[:index])


@given(spaces())
def test_json_brings_back_an_equal_space(space: Space) -> None:
    again = reread(space)
    assert again == space
    assert again is not None
    assert again.names == space.names


@given(spaces("choice int log"))
def test_the_size_is_the_number_of_samples(space: Space) -> None:
    if space.size() <= 3000:
        listed = list(grid(space))
        kinds = {tuple((name, type(value), value) for name, value in sample.items()) for sample in listed}
        assert space.size() == len(listed) == len(kinds)
        assert all(space.contains(sample) for sample in listed)


def test_a_range_of_real_numbers_makes_a_space_infinite() -> None:
    x = Float(0.0, 1.0, when={"a": (1,)})
    assert math.isinf(Space({"a": Choice((1, 2)), "x": x}).size())
    assert Space({"a": Choice((2,)), "b": Choice((1,)), "x": Float(0.0, 1.0, when={"b": (1,)})}).size() == math.inf


def test_conditions_are_counted_exactly() -> None:
    space = Space(
        {
            "period": Int(1, 10, when={"setting": (4,)}),
            "setting": Choice((1, 2, 4)),
            "heads": Int(1, 4),
            "extra": Choice((True, False), when={"setting": (2, 4), "heads": (4,)}),
        }
    )
    assert space.names == ("setting", "period", "heads", "extra")
    by_hand = sum(
        (10 if setting == 4 else 1) * (2 if setting in (2, 4) and heads == 4 else 1)
        for setting in (1, 2, 4)
        for heads in (1, 2, 3, 4)
    )
    assert space.size() == by_hand == len(list(grid(space)))


def test_a_huge_range_with_a_condition_is_counted_at_once() -> None:
    space = Space({"a": Int(0, 10**18), "b": Choice((1, 2), when={"a": (7,)}), "c": Int(1, 10**9)})
    assert space.size() == (10**18 + 2) * 10**9


def test_numbers_keep_their_kind() -> None:
    space = Space({"n": Int(1, 4), "x": Float(0.0, 1.0), "c": Choice((1, "1", None))})
    assert space.canonical({"c": "1", "x": 1, "n": 2}) == {"n": 2, "x": 1.0, "c": "1"}
    assert isinstance(space.canonical({"c": 1, "x": 1, "n": 2})["x"], float)
    for wrong in ({"n": 2.0}, {"n": True}, {"x": True}, {"x": "1"}, {"c": True}, {"c": 1.0}, {"n": "3e-5"}):
        assert not space.contains({"n": 1, "x": 0.5, "c": None, **wrong}), wrong
    with pytest.raises(ValueError, match=r"n: found 9; allowed: 1 to 4; c: found 2; allowed: 1, \"1\", null"):
        space.canonical({"n": 9, "x": 0.5, "c": 2})


def test_a_wide_logarithmic_range_is_drawn_evenly_over_its_decades() -> None:
    rng = random.Random(0)
    drawn = [draw(Space({"n": Int(1, 10**6, log=True)}), rng)["n"] for _ in range(2000)]
    small = sum(1 for n in drawn if isinstance(n, int) and n < 1000)
    assert 0.4 < small / len(drawn) < 0.6
    floats = [Float(1e-6, 1.0, log=True).draw(rng) for _ in range(2000)]
    assert 0.4 < sum(1 for x in floats if isinstance(x, float) and x < 1e-3) / 2000 < 0.6


@pytest.mark.parametrize(
    ("sample", "text"),
    [
        ({"setting": 1, "period": 0.1}, [("period", "not active: needs setting in [4]")]),
        ({"period": 0.1}, []),
        ({"setting": 4}, []),
        ({"heads": 9}, [("heads", "found 9; allowed: 1 to 8")]),
        ({"haeds": 2}, [("haeds", "no such parameter; allowed: setting, period, deep, heads; did you mean 'heads'?")]),
        ({"setting": 1, "deep": 1}, [("deep", "not active: needs period in [1]")]),
    ],
)
def test_partial_samples_are_judged_as_far_as_they_go(sample: Sample, text: list[tuple[str, str]]) -> None:
    space = Space(
        {
            "setting": Choice((1, 4)),
            "period": Choice((0.1, 1), when={"setting": (4,)}),
            "deep": Choice((1, 2), when={"period": (1,)}),
            "heads": Int(1, 8),
        }
    )
    assert space.faults(sample, partial=True) == text


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ({}, ": found {}; a mapping of names to {choice: [...]}, {int: [low, high]} or {float: [low, high]} is due"),
        (None, ": found null; a mapping of names"),
        ({"a": 4}, "a: found 4; one of {choice"),
        ({"a": [1, 2]}, "a: found [1, 2]; one of {choice: [...]}"),
        ({"a": {}}, "a: found {}; one of {choice: [...]}, {int: [low, high]} or {float: [low, high]} is due"),
        ({"a": {"int": [1, 2], "choice": [1]}}, "one of {choice: [...]}, {int: [low, high]} or"),
        ({"a": {"ints": [1, 2]}}, "{float: [low, high]} is due; did you mean 'int'?"),
        ({"a": {"int": [4, 1]}}, "a.int: found the range 4 to 1; the lower end comes first"),
        ({"a": {"int": [1, 2, 3]}}, "a.int: found [1, 2, 3]; a pair [low, high] is due"),
        ({"a": {"int": [1, 2.5]}}, "a.int: found 2.5; a whole number is due"),
        ({"a": {"int": [1, "4"]}}, "a.int: '4' is text in YAML; write 4 (a whole number is due)"),
        ({"a": {"int": [True, 4]}}, "a.int: found true; a whole number is due"),
        ({"a": {"int": [1, 8], "step": 3}}, "a.int: the step 3 does not lead from 1 to 8; it ends at 7"),
        ({"a": {"int": [1, 8], "step": 10}}, "a.int: the step 10 exceeds the range 1 to 8"),
        ({"a": {"int": [1, 8], "step": 0}}, "a.int: found the step 0; a step of at least 1 is due"),
        ({"a": {"int": [1, 9], "step": 2, "log": True}}, "a.int: found the step 2 on a logarithmic scale"),
        (
            {"a": {"int": [0, 8], "log": True}},
            "a.int: found the lower end 0 on a logarithmic scale; it must be above 0",
        ),
        ({"a": {"float": [-1, 1], "log": True}}, "a.float: found the lower end -1.0 on a logarithmic scale"),
        ({"a": {"float": ["3e-5", 1]}}, "a.float: '3e-5' is text in YAML; write 3.0e-5 (a finite number is due)"),
        ({"a": {"float": [0, 1], "step": 0.1}}, "a.step: no such key; allowed: float, log, when"),
        ({"a": {"float": [0, 1], "log": "yes"}}, 'a.log: found "yes"; true or false is due'),
        ({"a": {"float": 0.5}}, "a.float: found 0.5; a list is due"),
        ({"a": {"choice": []}}, "a.choice: found []; at least one value is due"),
        ({"a": {"choice": [1, 2, 1]}}, "a.choice: found 1 twice; distinct values are due"),
        (
            {"a": {"choice": [1, True]}},
            "a.choice: found true twice; distinct values are due (1, 1.0 and true count as one)",
        ),
        ({"a": {"choice": [[1, 2]]}}, "a.choice: found [1, 2]; a single value"),
        ({"method": {"choice": [1]}}, "method: the name 'method' is taken"),
        ({"a": {"choice": [1], "when": {"b": [1]}}}, "a.when.b: no such parameter; allowed: "),
        ({"a": {"choice": [1], "when": {"a": [1]}}}, "a.when.a: a parameter cannot depend on itself"),
        (
            {"ab": {"choice": [1]}, "c": {"choice": [1], "when": {"abb": [1]}}},
            "c.when.abb: no such parameter; allowed: ab; did you mean 'ab'?",
        ),
        (
            {"a": {"choice": [1, 4]}, "b": {"choice": [1], "when": {"a": [2]}}},
            "b.when.a: found 2; allowed: 1, 4",
        ),
        (
            {"a": {"float": [0, 1]}, "b": {"choice": [1], "when": {"a": [0.5]}}},
            "b.when.a: a is a range of real numbers",
        ),
        ({"a": {"choice": [1]}, "b": {"choice": [1], "when": {"a": 1}}}, "b.when.a: found 1; a list of values is due"),
        (
            {"a": {"choice": [1]}, "b": {"choice": [1], "when": [1]}},
            "b.when: found [1]; a mapping {other: [values]} is due",
        ),
        (
            {"a": {"choice": [1], "when": {"b": [1]}}, "b": {"choice": [1], "when": {"a": [1]}}},
            ": the conditions of a, b run in a circle",
        ),
    ],
)
def test_an_impossible_space_is_refused_with_its_key(raw: object, text: str) -> None:
    lines = complaints(raw)
    assert len(lines) == 1
    assert text in lines[0]


def test_all_problems_of_a_space_come_at_once() -> None:
    raw = {"a": {"int": [4, 1]}, "b": {"choice": []}, "c": {"choice": [1], "when": {"a": [2], "nope": [1]}}, "d": 3}
    assert [line.split(":")[0] for line in complaints(raw)] == ["a.int", "b.choice", "d", "c.when.nope"]


def test_a_space_made_in_code_is_checked_as_well() -> None:
    with pytest.raises(ValueError, match=r"b\.when\.a: no such parameter"):
        Space({"b": Choice((1,), {"a": (1,)})})
    with pytest.raises(ValueError, match=r"found the range 3\.0 to 1\.0"):
        Float(3.0, 1.0)
    with pytest.raises(ValueError, match="no finite grid"):
        list(grid(Space({"x": Float(0.0, 1.0)})))


def test_the_empty_space_has_one_sample() -> None:
    assert list(grid(Space())) == [{}]
    assert Space().size() == 1
    assert Space().contains({})
