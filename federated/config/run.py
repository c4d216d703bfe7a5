"""What a run is: one frozen dataclass, checked once, saved with the run.

Nothing heavy is imported here, so that ``--help`` and a wrong flag answer at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from federated.config import algorithm
from federated.config.algorithm import AlgorithmFields, AlgorithmOptions
from federated.config.data import PartitionOptions
from federated.config.execution import EvaluationOptions, ExecutionOptions, FailureOptions
from federated.config.model import ModelOptions, init_name
from federated.config.training import PersonalOptions, PrivacyOptions, StrategyOptions, TrainingOptions
from fps_pretrain.common import yaml_file
from fps_pretrain.common.errors import UserError
from fps_pretrain.common.options import fields_of, flag, from_plain
from fps_pretrain.models.architectures import last_stage

__all__ = ["MAY_DIFFER_ON_RESUME", "RunConfig", "init_name"]


@dataclass(frozen=True)
class RunConfig(  # its fields come from the last of these to the first
    ExecutionOptions,
    FailureOptions,
    EvaluationOptions,
    PrivacyOptions,
    PersonalOptions,
    TrainingOptions,
    AlgorithmFields,
    StrategyOptions,
    PartitionOptions,
    ModelOptions,
):
    """A federated run.

    Raises:
        UserError: a value is out of range, or one does not go with the others; the message names the flag.
    """

    def __post_init__(self, filled_in: tuple[tuple[str, Any], ...]) -> None:
        super().__post_init__(filled_in)
        self.check_dataset()
        self.check_model()
        self.check_partition()
        self._check_trained()
        if self.norm == "batch" and self.train != "head":
            self.fill_in("bn_stats", "average" if self.dp == "none" else "server")
        if self.dp != "none":
            self._check_privacy()
        if self.min_clients > self.participants:
            raise UserError(f"--min-clients {self.min_clients} is more than the {self.participants} of a round")
        if self.bn_stats == "server" and not self.validation:
            other = "" if self.dp == "none" else " (or --norm group)"
            raise UserError(
                f"--bn-stats server needs --validation above 0: the images the statistics are taken from{other}"
            )
        if self.keep_best and not self.validation:
            raise UserError("--keep-best needs --validation above 0: the images by which the best round is chosen")
        self._check_cohort()

    def _check_trained(self) -> None:
        """Refuse what does not go with the part of the model that is trained, and with the part that is shared."""
        if self.train == "last-block" and last_stage(self.arch) is None:
            raise UserError(f"--train last-block goes with ResNets, whose last stage it trains, not with {self.arch}")
        if self.train == "head":
            if self.personal == "head":
                raise UserError("--personal head leaves nothing to share with --train head: train all or last-block")
            if self.augment not in ("auto", "none"):
                raise UserError(
                    f"--train head computes the features of each image once, so that --augment {self.augment} cannot be"
                )
            if self.bn_stats is not None:
                raise UserError("--bn-stats does not go with --train head: the frozen encoder keeps its statistics")
            if algorithm.options_class(self.strategy).needs_encoder:
                raise UserError(
                    f"--strategy {self.strategy} compares features, which --train head freezes: train all or last-block"
                )
        if self.personal == "head" and self.keep_best:
            raise UserError("--keep-best does not go with --personal head: no validation image has a client's head")

    def _check_privacy(self) -> None:
        private = [name for name in algorithm.names() if algorithm.options_class(name).mean_only]
        if self.strategy not in private:
            raise UserError(f"--dp goes with --strategy {', '.join(private)}, not with {self.strategy}")
        if self.head == "centroid":
            raise UserError("--dp does not cover --head centroid, for which clients send class means as they are")
        if self.init_statistics == "clients":
            raise UserError("--dp does not cover --init-statistics clients, for which clients send sums as they are")
        if self.bn_stats not in (None, "server"):
            raise UserError(
                f"--dp does not cover --bn-stats {self.bn_stats}, for which clients send averages of their images as "
                "they are: use --bn-stats server or --norm group"
            )

    def _check_cohort(self) -> None:
        """Refuse a round with too few participants for the strategy."""
        if self.participants < self.least_replies:
            options = {name: value for name, value in vars(self.algorithm_options()).items() if value is not None}
            with_ = "".join(f" with {flag(name)} {value:g}" for name, value in options.items())
            raise UserError(
                f"--strategy {self.strategy}{with_} needs {self.least_replies} participants "
                f"in a round, not {self.participants}: raise --clients or --participation"
            )
        if self.selected is not None and self.selected > self.participants:
            raise UserError(f"--selected {self.selected} is more than the {self.participants} participants of a round")

    def algorithm_options(self) -> AlgorithmOptions:
        """The options of the chosen strategy."""
        options = algorithm.options_class(self.strategy)
        return options(**{one.name: getattr(self, one.name) for one in fields_of(options)})

    @property
    def least_replies(self) -> int:
        """Replies without which the strategy is not what its name promises."""
        return self.algorithm_options().least_replies

    @property
    def augmentation(self) -> str:
        """none, crop or standard: ``augment`` with auto resolved."""
        if self.augment != "auto":
            return self.augment
        if self.train == "head":
            return "none"
        return "crop" if self.dataset == "digits" else "standard"

    def evaluates_clients(self, server_round: int) -> bool:
        """Whether the global model is evaluated at the clients after a round, 0 being before the first."""
        last, every = server_round == self.rounds, self.per_client_every
        if last and (self.personal == "head" or self.fine_tune_epochs):
            return True
        return bool(every) and (last or server_round % every == 0)

    @property
    def sends_buffers(self) -> bool:
        """Whether clients send BatchNorm's statistics; with ``--bn-stats server`` they only receive them."""
        return self.bn_stats != "server"

    @property
    def asks_clients(self) -> bool:
        """Whether it takes the clients to evaluate the global model at them: for what they alone have or do."""
        return self.partition == "nodes" or self.personal == "head" or self.fine_tune_epochs > 0

    @property
    def folder(self) -> Path:
        """The run folder: ``output``, or a name of its own under runs/."""
        if self.output is not None:
            return self.output
        kind, _, where = self.dataset.partition(":")
        data = Path(where).name or kind
        detail = self.alpha or self.shards_per_client or self.classes_per_client or self.size_skew or ""
        names = [data, f"{self.partition}{detail}", init_name(self.init)]
        if self.strategy != "fedavg":
            names.append(self.strategy)
        if self.train != "all":
            names.append(f"train-{self.train}")
        if self.personal != "none":
            names.append(f"personal-{self.personal}")
        if self.fine_tune_epochs:
            names.append("fine-tune")
        if self.dp != "none":
            names.append(f"dp-{self.dp}")
        return Path("runs") / "-".join([*names, f"s{self.seed}"])


FIELDS = {one.name: one for one in fields_of(RunConfig)}
"""The options of a run by name."""

SERVER_ONLY = tuple(name for name, one in FIELDS.items() if one.option.server_only)
"""Fields that are never sent to clients."""

MAY_DIFFER_ON_RESUME = (*(name for name, one in FIELDS.items() if one.option.may_differ), *SERVER_ONLY)
"""Fields that a resumed run may change: they are no part of what it computes."""


RESOLVED = ("precision", "workers")
"""Fields whose ``auto`` is resolved when a run begins; one that is resumed with ``auto`` goes on as it began."""


def unused_beside(values: Mapping[str, Any], chosen: Collection[str]) -> set[str]:
    """Those of ``values``, fields by name, that belong to a choice which the fields in ``chosen`` make anew."""
    return {name for name in values if name in FIELDS and FIELDS[name].option.choice in chosen and name not in chosen}


def without_secrets(config: RunConfig) -> RunConfig:
    """``config`` without what only the server may know: what may be shown, logged or sent."""
    removed: dict[str, Any] = dict.fromkeys(SERVER_ONLY)
    return dataclasses.replace(config, **removed)


def to_yaml(config: RunConfig, *, for_clients: bool = False) -> str:
    """The configuration as YAML, one line a field, in the order of the dataclass.

    Args:
        config: the configuration.
        for_clients: leave out what only the server may know; write so whatever leaves it.
    """
    values = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in dataclasses.asdict(config).items()
        if not (for_clients and name in SERVER_ONLY)
    }
    return yaml_file.dump(values)


def from_yaml(text: str) -> RunConfig:
    """Read what ``to_yaml`` wrote; fields that are absent take their defaults.

    Raises:
        UserError: the text is not YAML of this form, or holds unknown fields or values out of range.
    """
    values = yaml_file.parse(text, "a run's configuration")
    if unknown := sorted(name for name in values if name not in FIELDS):
        raise UserError(f"not a run's configuration: unknown fields {', '.join(unknown)}")
    return RunConfig(**{name: from_plain(FIELDS[name], value) for name, value in values.items()})


def differences(saved: RunConfig, asked: RunConfig) -> list[str]:
    """Flags whose values would make ``asked`` another run than ``saved``; ``MAY_DIFFER_ON_RESUME`` never do.

    More rounds do not where those that are done would have been the same, and clients keep nothing that is gone after
    the last. What only the server knows counts where it is asked for, and is not shown.
    """
    different = {
        name
        for name in FIELDS
        if getattr(saved, name) != getattr(asked, name) and not (name in RESOLVED and getattr(asked, name) == "auto")
    }
    keeps_state = saved.algorithm_options().keeps_state
    if asked.rounds > saved.rounds and saved.lr_schedule == "constant" and saved.dp == "none" and not keeps_state:
        different.discard("rounds")
    shown = [
        f"{one.flag} {getattr(saved, name)} (now {getattr(asked, name)})"
        for name, one in FIELDS.items()
        if name in different and name not in MAY_DIFFER_ON_RESUME
    ]
    secret = [n for n in SERVER_ONLY if n in different and getattr(asked, n) is not None]
    return [*shown, *(f"another {flag(name)}" for name in secret)]


def identity(config: RunConfig) -> str:
    """What makes a run the run it is, as text: all fields but ``MAY_DIFFER_ON_RESUME``."""
    return "\n".join(f"{name}: {getattr(config, name)}" for name in FIELDS if name not in MAY_DIFFER_ON_RESUME)
