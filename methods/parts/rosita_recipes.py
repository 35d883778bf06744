"""ROSITA's published hyper-parameters by setting and task, as the fields of `methods.rosita.Config` that they set.

Setting 4, the final method, was published for five tasks and has the tasks' plain names; settings 1 to 3 and their
common stages for fewer. Numbers of updates follow from the size of the augmented training sets.

References:
    Liu, Lin, Yuan: ROSITA: Refined BERT cOmpreSsion with InTegrAted techniques, AAAI 2021,
    https://arxiv.org/abs/2103.11367, the configuration files of the released code
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

Fields = Mapping[str, Any]

_CONSTANT: Fields = {"schedule": "constant", "warmup": 0.0}
_LINEAR: Fields = {"schedule": "linear", "warmup": 0.0}
_WARM: Fields = {"schedule": "linear", "warmup": 0.1, "lr": 5e-5}

_STAGES: Mapping[str, Fields] = {
    "cola": {
        **{"batch_size": 32, "student_epochs": 5.0, "student_lr": 2e-5, "student_evaluate_every": 100},
        **{"depth_epochs": 10.0, "depth_lr": 1e-5, "depth_period": 0.2},
    },
    "sst2": {
        **{"batch_size": 32, "student_epochs": 5.0, "student_lr": 2e-5},
        **{"depth_epochs": 5.0, "depth_lr": 2e-5, "depth_period": 0.5},
    },
    "mnli": {
        **{"batch_size": 64, "student_epochs": 3.0, "student_lr": 5e-5},
        **{"depth_epochs": 2.0, "depth_lr": 2e-5, "depth_period": 0.2},
    },
    "qnli": {
        **{"batch_size": 64, "student_epochs": 3.0, "student_lr": 2e-5},
        **{"depth_epochs": 3.0, "depth_lr": 3e-5, "depth_period": 0.2},
    },
    "qqp": {
        **{"batch_size": 64, "student_epochs": 3.0, "student_lr": 2e-5},
        **{"depth_epochs": 2.0, "depth_lr": 2e-5, "depth_period": 0.2},
    },
}
"""BERT(student) and BERT-8layer."""

_ONE_STEP: Mapping[str, Fields] = {
    "cola": {**_WARM, "epochs": 50.0, "patience": 10.0},
    "sst2": {**_WARM, "epochs": 10.0},
    "mnli": {**_WARM, "epochs": 5.0},
}
"""Settings 1 and 2."""

_SETTING_3: Mapping[str, Fields] = {
    "cola": {**_CONSTANT, "lr": 1e-5, "epochs": 50.0, "prune_period": 0.1, "patience": 10.0},
    "sst2": {**_CONSTANT, "lr": 1e-5, "epochs": 10.0, "prune_period": 0.1},
    "mnli": {**_LINEAR, "lr": 5e-5, "epochs": 5.0, "prune_period": 0.1},
}

_SETTING_4: Mapping[str, Fields] = {
    "cola": {**_CONSTANT, "lr": 1e-5, "epochs": 50.0, "prune_period": 0.01, "patience": 10.0},
    "sst2": {**_CONSTANT, "lr": 1e-5, "epochs": 10.0, "prune_period": 0.01},
    "mnli": {**_LINEAR, "lr": 5e-5, "epochs": 5.0, "prune_period": 0.1},
    "qnli": {**_CONSTANT, "lr": 3e-5, "epochs": 7.0, "prune_period": 0.1},
    "qqp": {**_CONSTANT, "lr": 3e-5, "epochs": 5.0, "prune_period": 0.1},
}

_NO_KD: Fields = {
    **{"setting": "no-kd", "lr": 2e-5, "epochs": 5.0, "warmup": 0.0, "weight_decay": 0.0, "evaluate_every": 100},
    **{"optimizer": "adamw", "clip": "global"},
}
"""Training on the labels; for all tasks in batches of 32."""


def _of(setting: int, tables: Mapping[str, Fields]) -> dict[str, Fields]:
    """The recipes of a setting by task."""
    return {task: {**_STAGES[task], **fields, "setting": setting} for task, fields in tables.items()}


def _named(prefix: str, recipes: Mapping[str, Fields]) -> dict[str, Fields]:
    """The same recipes under longer names."""
    return {f"{prefix}-{task}": fields for task, fields in recipes.items()}


RECIPES: Mapping[str, Fields] = MappingProxyType(
    {
        **_of(4, _SETTING_4),
        **_named("setting1", _of(1, _ONE_STEP)),
        **_named("setting2", _of(2, _ONE_STEP)),
        **_named("setting3", _of(3, _SETTING_3)),
        **_named("setting4", _of(4, _SETTING_4)),
        "no-kd-cola": {**_NO_KD, "epochs": 20.0},
        **dict.fromkeys(("no-kd-sst2", "no-kd-qnli", "no-kd-qqp", "no-kd-mnli"), _NO_KD),
    }
)
"""Recipe -> fields."""
