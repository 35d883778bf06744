"""The one door to Optuna: a study in a SQLite file that is asked for designs and told what became of them.

The study is a memory of the sampler, not the truth: it can be lost and rebuilt from the records. A refused design is
told as pruned with a violated constraint, which the tree-structured Parzen estimator ranks last by its violation,
without any made-up score. On a space with a few per cent of feasible designs it then asks 2.5 times for each feasible
one; told that refused designs failed it learns nothing and asks over 100 times.
"""

import json
import logging
import sqlite3
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy import event
from sqlalchemy.exc import DatabaseError

from methods.parts.rng import derive
from orchestrator.space import Choice, Int, Parameter, Sample, Scalar, Space

log = logging.getLogger(__name__)
optuna.logging.set_verbosity(optuna.logging.WARNING)

METHOD, BUDGET = "method", "budget"
TRIAL = "trial"
"""Of an Optuna trial: the name of ours that runs it, ran it, or was refused for it."""
DIRECTIONS = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}
POPULATION = 16
"""NSGA-II's generation: sweeps have tens of trials, not thousands."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Proposal:
    """What the sampler wants to try."""

    number: int
    """The study's own count."""
    method: str
    sample: Sample
    trial: str = ""
    """The name of the trial this continues, or nothing."""


class Study:
    """Samples of several methods' spaces, asked and told one at a time."""

    def __init__(
        self, path: Path, spaces: Mapping[str, Space], objectives: Mapping[str, str], *, sampler: str, seed: int
    ) -> None:
        """Opens or creates the study for these spaces and objectives; others in the same file are left alone.

        The sampler's random state follows from the seed and the number of trials so far.
        """
        self._spaces = dict(spaces)
        self._open: dict[int, Trial] = {}
        space = {name: space.to_json() for name, space in spaces.items()}
        digest = sha256(json.dumps([space, dict(objectives)], sort_keys=True).encode()).hexdigest()
        self._study = optuna.create_study(
            storage=_storage(path),
            study_name=f"{path.parent.name}-{digest[:12]}",
            directions=[DIRECTIONS[way] for way in objectives.values()],
            load_if_exists=True,
        )
        self.is_new = not self._trials()
        """Whether nothing was ever asked or enqueued."""
        self._study.sampler = make_sampler(sampler, derive(seed, len(self._trials())) % 2**32)

    def ask(self) -> Proposal:
        """The next design to try: those enqueued first, then the sampler's."""
        trial = self._study.ask()
        names = list(self._spaces)
        method = str(trial.suggest_categorical(METHOD, names)) if len(names) > 1 else names[0]
        prefix = self._prefix(method)

        def pick(name: str, parameter: Parameter) -> Scalar:
            return _suggest(trial, prefix + name, parameter)

        sample = self._spaces[method].walk(pick)
        self._open[trial.number] = trial
        return Proposal(number=trial.number, method=method, sample=sample)

    def name(self, number: int, trial: str) -> None:
        """Notes which trial of ours runs a proposal."""
        self._open[number].set_user_attr(TRIAL, trial)

    def tell(self, number: int, values: Sequence[float] | None) -> None:
        """Says what came out, in the order of the objectives; None is a failure."""
        state = TrialState.FAIL if values is None else TrialState.COMPLETE
        self._study.tell(number, values, state=state)
        self._open.pop(number, None)

    def refuse(self, number: int, violation: float) -> None:
        """Says that a proposal may not run.

        Args:
            number: The proposal's.
            violation: How far it is from allowed, > 0; 0.1 is 10 % over the budget.
        """
        self._open.pop(number).set_constraint(BUDGET, violation)
        self._study.tell(number, state=TrialState.PRUNED)

    def enqueue(self, method: str, sample: Sample) -> None:
        """Has a sample, which may be partial, proposed before anything else."""
        self._study.enqueue_trial(self._params(method, sample))

    def unfinished(self) -> list[Proposal]:
        """What a dead driver left running, to be told or run on; what it had given no name yet is ended."""
        left = []
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if TRIAL not in trial.user_attrs:
                self._study.tell(trial.number, state=TrialState.FAIL)
                continue
            self._open[trial.number] = Trial(self._study, trial._trial_id)
            method = trial.params.get(METHOD, next(iter(self._spaces)))
            prefix = self._prefix(method)
            sample = {name.removeprefix(prefix): value for name, value in trial.params.items() if name != METHOD}
            left.append(Proposal(number=trial.number, method=method, sample=sample, trial=trial.user_attrs[TRIAL]))
        return left

    @property
    def names(self) -> set[str]:
        """The trials of ours that the study knows and that have not failed."""
        return {t.user_attrs[TRIAL] for t in self._trials() if t.state != TrialState.FAIL and TRIAL in t.user_attrs}

    @property
    def has_waiting(self) -> bool:
        """Whether something was enqueued and not yet proposed."""
        return any(trial.state == TrialState.WAITING for trial in self._trials())

    def add(self, trial: str, method: str, sample: Sample, outcome: Sequence[float] | float) -> None:
        """Adds a trial that the study has not seen, e.g. from a record.

        Args:
            trial: Our name of it.
            method: Its method.
            sample: What was chosen.
            outcome: The values of the objectives; of a refused design, its violation.
        """
        refused = isinstance(outcome, float)
        self._study.add_trial(
            optuna.create_trial(
                state=TrialState.PRUNED if refused else TrialState.COMPLETE,
                values=None if isinstance(outcome, float) else list(outcome),
                params=self._params(method, sample),
                distributions=self._distributions(method, sample),
                user_attrs={TRIAL: trial},
                constraints={BUDGET: outcome} if isinstance(outcome, float) else None,
            )
        )

    def _trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _prefix(self, method: str) -> str:
        """Methods may have parameters of one name and different ranges."""
        return f"{method}." if len(self._spaces) > 1 else ""

    def _params(self, method: str, sample: Sample) -> dict[str, Any]:
        chosen = {METHOD: method} if len(self._spaces) > 1 else {}
        return {**chosen, **{self._prefix(method) + name: value for name, value in sample.items()}}

    def _distributions(self, method: str, sample: Sample) -> dict[str, BaseDistribution]:
        chosen = {METHOD: CategoricalDistribution(list(self._spaces))} if len(self._spaces) > 1 else {}
        parameters = self._spaces[method].parameters
        return {**chosen, **{self._prefix(method) + name: _distribution(parameters[name]) for name in sample}}


def _storage(path: Path) -> optuna.storages.RDBStorage:
    """The SQLite file; one that a power failure left unreadable is put aside, since the records can rebuild it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return _connect(path)
    except (DatabaseError, optuna.exceptions.StorageInternalError) as error:
        aside = path.with_suffix(".broken")
        log.warning("%s cannot be read (%s); moved to %s", path, type(error).__name__, aside)
        path.replace(aside)
        return _connect(path)


def _connect(path: Path) -> optuna.storages.RDBStorage:
    """Opens the file without waiting for the disk at each of the dozen writes of a trial: 0.2 s become 0.03 s."""
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": 60}})

    def relax(connection: sqlite3.Connection, _: object) -> None:
        connection.execute("PRAGMA synchronous=OFF")

    event.listen(storage.engine, "connect", relax)
    storage.engine.dispose()
    return storage


def make_sampler(name: str, seed: int) -> BaseSampler:
    """A sampler by its name in the sweep file; a grid is enqueued and needs none.

    References:
        Watanabe, Tree-Structured Parzen Estimator: Understanding Its Algorithm Components, 2023,
        https://arxiv.org/abs/2304.11127
        Deb et al., A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II, 2002,
        https://doi.org/10.1109/4235.996017
    """
    if name == "tpe":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # `group`: needed for conditions
            return TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)
    if name == "nsga2":
        return NSGAIISampler(seed=seed, population_size=POPULATION)
    return RandomSampler(seed=seed)


def _distribution(parameter: Parameter) -> BaseDistribution:
    """A parameter as Optuna's distribution."""
    if isinstance(parameter, Choice):
        return CategoricalDistribution(list(parameter.values))
    if isinstance(parameter, Int):
        return IntDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.step)
    return FloatDistribution(parameter.low, parameter.high, log=parameter.log)


def _suggest(trial: Trial, name: str, parameter: Parameter) -> Scalar:
    """The trial's value of a parameter."""
    if isinstance(parameter, Choice):
        value: Scalar = trial.suggest_categorical(name, list(parameter.values))
        return value
    if isinstance(parameter, Int):
        return trial.suggest_int(name, parameter.low, parameter.high, step=parameter.step, log=parameter.log)
    return trial.suggest_float(name, parameter.low, parameter.high, log=parameter.log)
