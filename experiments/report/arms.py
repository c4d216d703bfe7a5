"""Arms: runs that differ in their seed only. One of them may be centralised, to see what federation costs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from experiments.report.runs import CLIENT_KEYS, CLIENT_MEAN, TUNED_KEYS, Run
from federated.config.run import MAY_DIFFER_ON_RESUME, RunConfig, init_name, unused_beside
from fps_pretrain.common import plots
from fps_pretrain.common.errors import UserError
from fps_pretrain.common.wording import counted


@dataclass(frozen=True)
class Arm:
    """Runs that differ in their seed only, in the order of their seeds.

    Raises:
        UserError: two runs have one seed, or the runs were not evaluated after the same rounds.
    """

    label: str
    runs: list[Run]

    def __post_init__(self) -> None:
        """Check that every seed comes once, and that all runs were evaluated after the same rounds."""
        if len(set(self.seeds)) < len(self.runs):
            raise UserError(f"two of the runs of '{self.label}' have the same seed: name each run once")
        if len({(*run.rounds, None, *run.client_rounds) for run in self.runs}) > 1:
            raise UserError(f"the runs of '{self.label}' have different rounds: finish them first")

    @property
    def seeds(self) -> list[int]:
        """The runs' seeds."""
        return [run.config.seed for run in self.runs]

    @property
    def title(self) -> str:
        """The label, and how many seeds there are."""
        return f"{self.label} ({counted(len(self.runs), 'seed')})"

    @property
    def rounds(self) -> list[int]:
        """Rounds after which the runs were evaluated."""
        return self.runs[0].rounds

    @property
    def client_rounds(self) -> list[int]:
        """Rounds after which they were evaluated at each client."""
        return self.runs[0].client_rounds

    @property
    def personal(self) -> bool:
        """Whether clients keep their heads, so that no model for the test set is trained."""
        return is_personal(self.runs[0].config)

    def rounds_of(self, key: str) -> list[int]:
        """The rounds of ``values``."""
        return self.runs[0].rounds_of(key)

    def values(self, key: str) -> np.ndarray:
        """A quantity of all runs: ``(seeds, rounds)``, or ``(seeds, client_rounds)`` for one of the clients."""
        return np.stack([run.values(key) for run in self.runs])

    def drawn(self, key: str) -> tuple[list[int], np.ndarray]:
        """``rounds_of`` and ``values`` as pictures show them.

        Clients are often evaluated before training and after the last round only. Of fewer than ``plots.COURSE``
        rounds at the clients the last is left, alone.
        """
        rounds, values = self.rounds_of(key), self.values(key)
        lone = key in (*CLIENT_KEYS, *TUNED_KEYS) and len(rounds) < plots.COURSE
        return (rounds[-1:], values[:, -1:]) if lone else (rounds, values)


def passes(config: RunConfig) -> float:
    """A run's budget: how often it passes over the training examples, all rounds and clients together."""
    return config.rounds * config.local_epochs * config.participants / config.clients


def passes_a_round(arm: Arm) -> float:
    """Passes over the training examples in a round of an arm."""
    config = arm.runs[0].config
    return config.local_epochs * config.participants / config.clients  # not passes / rounds, which is rounded twice


BUDGET_TOLERANCE = 1.1
"""Budgets whose ratio is no larger count as the same: a centralised run makes whole passes."""


def same_budget(budgets: Sequence[float]) -> bool:
    """Whether budgets, as ``passes``, count as the same."""
    return max(budgets) <= BUDGET_TOLERANCE * min(budgets)


def is_personal(config: RunConfig) -> bool:
    """Whether clients keep their heads: accuracy on the test set is then that of a head that nobody trained."""
    return config.personal == "head"


MEASURES = {
    "test_accuracy": "test accuracy",
    CLIENT_MEAN: "accuracy at the clients, which keep their own heads",
}
"""What arms are compared by, by its name in metrics.jsonl."""


def measure_of(arms: Sequence[Arm]) -> str:
    """What arms are compared by: ``test_accuracy``, or the mean of the clients' where there are personal heads.

    Raises:
        UserError: an arm was not evaluated at its clients, while another has personal heads.
    """
    if not any(arm.personal for arm in arms):
        return "test_accuracy"
    for arm in arms:
        if not arm.client_rounds:
            raise UserError(
                f"'{arm.label}' was not evaluated at its clients, and with --personal head there is nothing else to "
                "compare by: run it with --per-client-every"
            )
    return CLIENT_MEAN


def is_centralised(config: RunConfig) -> bool:
    """Whether one client holds all data, so that nothing is federated."""
    return config.clients == 1


def arm_key(config: RunConfig) -> str:
    """What a learning rate is tuned for: an initialisation, or, as ``centralised INIT``, its centralised training."""
    return f"centralised {config.init}" if is_centralised(config) else config.init


def centralise(config: RunConfig) -> RunConfig:
    """The centralised run of the same budget: one client holds all data and sees as many examples.

    Its rounds are whole epochs, as few in a round as keep the budget to ``BUDGET_TOLERANCE`` with no more rounds than
    the federation has. With partial participation they are fewer: 100 rounds of 5 epochs with a tenth of the clients
    are 50 rounds of one epoch. What belongs to the strategy or to the partition alone is left out.

    Raises:
        UserError: the run has no data of its own to put together, is private, keeps heads at clients, is centralised
            already, or its budget is not near a whole number of passes.
    """
    if is_centralised(config) or config.partition == "nodes" or config.dp != "none" or is_personal(config):
        raise UserError(
            "--centralised goes with --clients above 1, and with neither --partition nodes, --dp nor --personal head"
        )
    total = passes(config)
    choices = [(epochs, max(1, round(total / epochs))) for epochs in range(1, max(1, round(total)) + 1)]
    close = (c for c in choices if c[1] <= config.rounds and same_budget([math.prod(c), total]))
    epochs, rounds = next(close, (0, 0))
    if not epochs:
        raise UserError(
            f"--centralised makes whole passes over the examples, which do not come near this federation's {total:g}: "
            "choose --rounds, --local-epochs or --participation otherwise"
        )
    left_out: dict[str, Any] = dict.fromkeys(unused_beside(asdict(config), ("strategy", "partition")))
    return replace(
        config,
        **left_out,
        strategy="fedavg",
        partition="iid",
        clients=1,
        participation=1.0,
        fine_tune_epochs=0,
        min_clients=1,
        local_epochs=epochs,
        rounds=rounds,
    )


def group(runs: Sequence[Run]) -> list[Arm]:
    """Group runs into arms, in the order in which each arm's first run came.

    An arm's label names the fields in which the arms differ; what a centralised one differs in is that word alone.

    Raises:
        UserError: two runs of an arm have one seed, or were evaluated after different rounds.
    """
    return [Arm(label, sorted(members, key=lambda run: run.config.seed)) for label, members in labelled(runs)]


def labelled(runs: Sequence[Run]) -> list[tuple[str, list[Run]]]:
    """The labels and runs of ``group``'s arms, from their configurations alone: seeds and rounds are not checked."""
    ignored = {"seed", *MAY_DIFFER_ON_RESUME}
    arms: dict[tuple[tuple[str, Any], ...], list[Run]] = {}
    for run in runs:
        key = tuple((name, value) for name, value in asdict(run.config).items() if name not in ignored)
        arms.setdefault(key, []).append(run)
    split = len({is_centralised(run.config) for run in runs}) > 1
    differing = _differing([key for key, members in arms.items() if not split or not is_centralised(members[0].config)])
    alone: list[str] = []
    if split:
        alone = _differing([key for key, members in arms.items() if is_centralised(members[0].config)])
        chosen = _differing([tuple((n, v) for n, v in key if n in ("init", "lr")) for key in arms])
        differing = list(dict.fromkeys([*differing, *alone, *chosen]))
    names = short_names([run.config.init for run in runs])
    return [(_label(members[0].config, differing, alone, split, names), members) for members in arms.values()]


def differing_options(runs: Iterable[Run], but: Collection[str] = ()) -> list[str]:
    """Options in which runs differ, beside their seeds and what does not change results.

    Args:
        runs: any runs.
        but: options that may differ.
    """
    left_out = {"seed", *MAY_DIFFER_ON_RESUME, *but}
    return _differing([tuple((n, v) for n, v in asdict(run.config).items() if n not in left_out) for run in runs])


def short_names(inits: Iterable[str]) -> dict[str, str]:
    """A short name for each initialisation: the whole where two would have the same."""
    names = {init: init_name(init) for init in inits}
    taken = Counter(names.values())
    return {init: init if taken[name] > 1 else name for init, name in names.items()}


def _differing(keys: Sequence[tuple[tuple[str, Any], ...]]) -> list[str]:
    """The names of the fields in which keys differ."""
    return [column[0][0] for column in zip(*keys, strict=True) if len({value for _, value in column}) > 1]


_FEDERATED_ONLY = ("clients", "partition", "participation", "strategy", "local_epochs", "rounds", "min_clients")


def _label(
    config: RunConfig, differing: Sequence[str], alone: Collection[str], split: bool, names: Mapping[str, str]
) -> str:
    """The fields in which arms differ, with an arm's values; its initialisation, by name, where no field differs.

    A centralised arm's leaves out what belongs to a federation, but for those in which centralised arms differ
    (``alone``).
    """
    values = asdict(config)
    if split and is_centralised(config):
        left_out = {*_FEDERATED_ONLY, *(name for name in differing if values[name] is None)}.difference(alone)
        differing = [name for name in differing if name not in left_out]
    shown = [names[config.init]] if "init" in differing or not differing else []
    shown += [f"{name.replace('_', '-')} {values[name]}" for name in differing if name != "init"]
    return ", ".join([*shown, *(["centralised"] if split and is_centralised(config) else [])])
