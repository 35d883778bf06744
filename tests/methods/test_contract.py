"""What every method must do, whatever its paper says."""

import ast
import dataclasses
import importlib
import inspect
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import methods
from methods.parts.layout import Layout
from methods.parts.run import LocalRun, Stopped
from tests.methods.conftest import Setting

pytestmark = pytest.mark.long

TINY: dict[str, dict[str, Any]] = {
    "dynabert": {
        **{"widths": (1.0, 0.5), "width": 0.5, "epochs": 1.0, "lr": 3e-3, "batch_size": 16, "importance_examples": 64},
        **{"finetune_epochs": 2.0, "finetune_lr": 3e-3},
    },
    "finetune": {"layers": 2, "epochs": 2.0, "lr": 3e-3, "batch_size": 16},
    "hsk": {
        **{"heads": 2, "layers": 2, "ffn_dim": 8, "embedding_rank": 6, "top": 3, "amounts": "2l_4t_0.5h"},
        **{"hsk_epochs": 1.0, "hsk_lr": 3e-3, "epochs": 1.0, "lr": 3e-3, "batch_size": 16},
    },
    "lad": {
        **{"layers": 2, "epochs": 2.0, "lr": 3e-3, "gate_lr": 1e-3, "warmup": 0.1, "batch_size": 16},
        **{"temperature": 2.0, "hidden_weight": 10.0},
    },
    "rosita": {"heads": 2, "layers": 2, "ffn_dim": 8, "embedding_rank": 6, "epochs": 2.0, "lr": 3e-3, "batch_size": 16},
    "tinybert": {
        **{"layers": 2, "hidden": 8, "heads": 4, "ffn_dim": 12, "start": "random", "batch_size": 16},
        **{"epochs": 1.0, "lr": 3e-3, "prediction_epochs": 1.0, "prediction_lr": 3e-3, "evaluate_every": 10},
    },
    "wid": {
        **{"target": 8, "text": "task", "inherit_steps": 40, "inherit_batch_size": 16, "mask_every": 2, "ramp_ffn": 4},
        **{"compactor_lr": 1e-2, "base_lr": 1e-3, "penalty": 60.0, "head_steps": 20, "head_lr": 3e-3},
        **{"epochs": 2.0, "lr": 3e-3, "batch_size": 16},
    },
}
"""A tiny configuration of each method."""


def modules() -> list[ModuleType]:
    return [importlib.import_module(f"methods.{name}") for name in methods.available()]


def test_every_method_has_a_tiny_configuration() -> None:
    assert set(TINY) == set(methods.available())


@pytest.mark.parametrize("name", sorted(TINY))
class TestEveryMethod:
    def test_its_config_is_frozen_keyword_only_slotted_and_documented(self, name: str) -> None:
        module = importlib.import_module(f"methods.{name}")
        config = module.Config()
        fields = dataclasses.fields(config)
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(config, fields[0].name, 1)
        assert not hasattr(config, "__dict__")
        assert all(field.kw_only for field in fields)
        for declaring in filter(dataclasses.is_dataclass, module.Config.__mro__):
            (found,) = ast.parse(inspect.getsource(declaring)).body
            assert isinstance(found, ast.ClassDef)
            for node, following in zip(found.body, [*found.body[1:], None], strict=True):
                if isinstance(node, ast.AnnAssign):
                    assert isinstance(following, ast.Expr), f"{name}.{ast.unparse(node.target)} has no docstring"
        json.dumps(dataclasses.asdict(config))

    def test_its_recipes_are_configurations(self, name: str) -> None:
        module = importlib.import_module(f"methods.{name}")
        for recipe in module.RECIPES.values():
            module.Config(**recipe)

    def test_its_docstring_names_the_paper(self, name: str) -> None:
        text = importlib.import_module(f"methods.{name}").__doc__ or ""
        assert "References:" in text
        assert "https://arxiv.org/abs/" in text

    def test_it_ends_with_the_layout_it_promised(self, name: str, setting: Setting, tmp_path: Path) -> None:
        module = importlib.import_module(f"methods.{name}")
        config = module.Config(**TINY[name])
        run = LocalRun(tmp_path, store=setting.store)
        outcome = module.compress(setting.task, setting.teacher, config, run)
        promised: Layout = module.layout(config, setting.teacher.layout)
        assert outcome.layout == promised == outcome.model.layout
        assert sum(parameter.numel() for parameter in outcome.model.parameters()) == promised.params()
        assert not outcome.model.training
        assert run.reports[-1].comparable
        assert 0.0 <= run.reports[-1].metrics["score"] <= 1.0

    def test_equal_seeds_give_equal_weights_and_others_do_not(
        self, name: str, setting: Setting, tmp_path: Path
    ) -> None:
        module = importlib.import_module(f"methods.{name}")
        states = []
        for number, seed in enumerate((0, 0, 1)):
            run = LocalRun(tmp_path / str(number), store=setting.store, seed=seed)
            outcome = module.compress(setting.task, setting.teacher, module.Config(**TINY[name]), run)
            states.append(outcome.model.state_dict())
        same, other = ([torch.equal(states[0][key], states[index][key]) for key in states[0]] for index in (1, 2))
        assert all(same)
        assert not all(other)

    def test_a_stopped_trial_ends_as_if_never_stopped(self, name: str, setting: Setting, tmp_path: Path) -> None:
        module = importlib.import_module(f"methods.{name}")
        config = module.Config(**TINY[name])
        whole = LocalRun(tmp_path / "whole", store=setting.store)
        expected = module.compress(setting.task, setting.teacher, config, whole).model.state_dict()
        with pytest.raises(Stopped):
            module.compress(setting.task, setting.teacher, config, Interrupted(tmp_path / "cut", setting.store, 13))
        resumed = Interrupted(tmp_path / "cut", setting.store, 10**6)
        found = module.compress(setting.task, setting.teacher, config, resumed).model.state_dict()
        assert 0 < resumed.polls < 20
        assert all(torch.equal(expected[key], found[key]) for key in expected)


class Interrupted(LocalRun):
    """A run that is told to stop after so many steps, with a checkpoint at each."""

    def __init__(self, folder: Path, store: Path, after: int) -> None:
        super().__init__(folder, store=store)
        self.cadence = dataclasses.replace(self.cadence, seconds=0.0, steps=4)
        self.after, self.polls = after, 0

    def poll(self) -> None:
        self.polls += 1
        if self.polls == self.after:
            raise Stopped
