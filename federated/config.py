"""What a run is: one frozen dataclass, checked once, saved with the run.

Nothing heavy is imported here, so that ``--help`` and a wrong flag answer at once.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from federated import algorithms
from fps_pretrain.errors import UserError

BUILT_IN_DATASETS = ("digits", "cifar10", "cifar100")
"""Data sets by name; the others are given as ``KIND:WHERE``."""

DATASET_KINDS = ("folder", "parquet", "hub")
"""The prefixes of data sets that are given by a path or a name on the Hugging Face hub."""

FREE_ON_RESUME = ("engine", "device", "threads", "output", "data_dir")
"""Fields that may differ when a run is resumed: where it is computed, and where its folder and its data lie now."""


@dataclass(frozen=True)
class RunConfig:
    """A federated run.

    Raises:
        UserError: a value is out of range; the message names the flag and the range.
    """

    init: str = "random"
    """Weights the encoder starts from: 'random', or the path of a checkpoint (run_pretrain.py's, or a state dict)."""
    arch: Literal["resnet20", "resnet32", "resnet44", "resnet56"] = "resnet20"
    """Architecture of the encoder: a CIFAR ResNet (He et al. 2016, section 4.2)."""
    width: int = 1
    """Multiplier of the encoder's channels."""

    dataset: str = "digits"
    """digits (bundled with scikit-learn), cifar10, cifar100, folder:PATH (train/ and test/ with one folder a class),
    parquet:PATH (train*.parquet and test*.parquet) or hub:NAME (a data set of the Hugging Face hub)."""
    data_dir: Path | None = None
    """Where cifar10 or cifar100 lies (train.parquet and test.parquet, or torchvision's folder; downloaded if left out),
    or where hub:NAME keeps its downloads."""
    limit_train: int | None = None
    """Use only so many training examples, the same ones for every seed."""
    limit_test: int | None = None
    """Use only so many test examples, the same ones for every seed."""
    image_size: int = 32
    """Side in pixels to which images are brought (short side resized, centre cropped)."""
    validation: float = 0.02
    """Share of the training examples held out from the clients and evaluated beside the test set."""

    clients: int = 10
    """Number of clients."""
    partition: Literal["iid", "dirichlet", "shards"] = "dirichlet"
    """How training examples are spread over the clients."""
    alpha: float = 0.3
    """Concentration of the Dirichlet partition: the smaller, the fewer classes a client has."""
    shards_per_client: int = 2
    """Blocks of examples sorted by label that a client gets in the shards partition."""
    min_partition_size: int = 2
    """Fewest examples a client may have."""
    participation: float = 1.0
    """Share of the clients that train in a round."""

    strategy: str = "fedavg"
    """Federated algorithm."""
    rounds: int = 20
    """Number of rounds."""
    local_epochs: int = 2
    """Passes of a client over its examples in a round."""
    batch_size: int = 16
    """Examples in a step of local SGD."""
    lr: float = 0.05
    """Learning rate of local SGD."""
    lr_schedule: Literal["constant", "cosine"] = "constant"
    """Learning rate over the rounds; cosine falls from --lr towards zero after the last round."""
    momentum: float = 0.9
    """Momentum of local SGD; its buffer starts at zero in every round."""
    weight_decay: float = 0.0005
    """Weight decay of local SGD."""
    augment: Literal["auto", "none", "crop", "standard"] = "auto"
    """Augmentation of training batches: crop (random shift by up to an eighth of the side), standard (crop and
    horizontal flip), none; auto is crop for digits, which a mirror changes, and standard for all else."""

    seed: int = 0
    """Seed of the partition, the fresh weights, who takes part and every batch."""
    eval_every: int = 1
    """Evaluate after every so many rounds, and always after the last."""
    eval_batch_size: int = 256
    """Examples in a batch of the evaluation."""

    engine: Literal["inprocess", "ray"] = "inprocess"
    """How clients are run: one after the other in this process, or in parallel by Flower's simulation on Ray."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device that trains and evaluates; auto takes a GPU if there is one."""
    threads: int | None = None
    """CPU threads of PyTorch (default: all cores in process, 1 in each Ray worker). Use 1 on a machine that is busy."""
    output: Path | None = None
    """Run folder (default: runs/ and a name made of data set, partition, init and seed)."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check_type(field.name, getattr(self, field.name))
        _check_dataset(self.dataset)
        if self.data_dir is not None and not self.dataset.startswith(("cifar", "hub:")):
            raise UserError(f"--data-dir goes with cifar10, cifar100 and hub:NAME, not with --dataset {self.dataset}")
        if self.strategy not in algorithms.names():
            raise UserError(f"--strategy {self.strategy} is unknown: choose one of {', '.join(algorithms.names())}")
        for name in ("width", "clients", "shards_per_client", "min_partition_size", "rounds", "local_epochs"):
            _at_least(name, getattr(self, name), 1)
        for name in ("batch_size", "eval_every", "eval_batch_size", "limit_train", "limit_test", "threads"):
            _at_least(name, getattr(self, name), 1)
        _at_least("seed", self.seed, 0)
        # The encoder halves the image twice, and BatchNorm needs more than one value a channel.
        _at_least("image_size", self.image_size, 8)
        _within("validation", self.validation, "0 <= value < 1", 0 <= self.validation < 1)
        _within("alpha", self.alpha, "0 < value", 0 < self.alpha < float("inf"))
        _within("participation", self.participation, "0 < value <= 1", 0 < self.participation <= 1)
        _within("lr", self.lr, "0 < value", 0 < self.lr < float("inf"))
        _within("momentum", self.momentum, "0 <= value < 1", 0 <= self.momentum < 1)
        _within("weight_decay", self.weight_decay, "0 <= value", 0 <= self.weight_decay < float("inf"))

    @property
    def augmentation(self) -> str:
        """none, crop or standard: ``augment`` with auto resolved."""
        if self.augment != "auto":
            return self.augment
        return "crop" if self.dataset == "digits" else "standard"

    @property
    def folder(self) -> Path:
        """The run folder: ``output``, or a name of its own under runs/."""
        if self.output is not None:
            return self.output
        kind, _, where = self.dataset.partition(":")
        data = Path(where).name or kind
        detail = {"iid": "", "dirichlet": f"{self.alpha:g}", "shards": str(self.shards_per_client)}[self.partition]
        return Path("runs") / f"{data}-{self.partition}{detail}-{Path(self.init).stem}-s{self.seed}"


def to_yaml(config: RunConfig) -> str:
    """The configuration as YAML, one line a field, in the order of the dataclass."""
    values = {
        name: str(value) if isinstance(value, Path) else value for name, value in dataclasses.asdict(config).items()
    }
    return yaml.safe_dump(values, sort_keys=False)


def from_yaml(text: str) -> RunConfig:
    """Read what ``to_yaml`` wrote; fields that are absent take their defaults.

    Raises:
        UserError: the text is not YAML of this form, or holds unknown fields or values out of range.
    """
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError("not a run's configuration: not YAML") from error
    if not isinstance(values, dict):
        raise UserError("not a run's configuration: not a mapping of fields to values")
    known = {field.name for field in dataclasses.fields(RunConfig)}
    if unknown := sorted(str(name) for name in values if name not in known):
        raise UserError(f"not a run's configuration: unknown fields {', '.join(unknown)}")
    for name in ("data_dir", "output"):
        if isinstance(values.get(name), str):
            values[name] = Path(values[name])
    return RunConfig(**values)


def differences(saved: RunConfig, asked: RunConfig) -> list[str]:
    """Flags whose values would make ``asked`` another run than ``saved``; ``FREE_ON_RESUME`` never do."""
    return [
        f"{_flag(field.name)} {getattr(saved, field.name)} (now {getattr(asked, field.name)})"
        for field in dataclasses.fields(RunConfig)
        if field.name not in FREE_ON_RESUME and getattr(saved, field.name) != getattr(asked, field.name)
    ]


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _check_type(name: str, value: Any) -> None:
    """Refuse a value of the wrong type or outside a Literal: the command line never gives one, YAML and code may."""
    hint = get_type_hints(RunConfig)[name]
    options = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    for option in options:
        if get_origin(option) is Literal:
            if value in get_args(option):
                return
        elif isinstance(value, (int, float) if option is float else option) and not isinstance(value, bool):
            return
    if get_origin(hint) is Literal:
        raise UserError(f"{_flag(name)} {value} is unknown: choose one of {', '.join(get_args(hint))}")
    expected = " or ".join("nothing" if option is type(None) else option.__name__ for option in options)
    raise UserError(f"{_flag(name)} must be of type {expected}, got {value!r}")


def _check_dataset(dataset: str) -> None:
    kind, colon, where = dataset.partition(":")
    if dataset in BUILT_IN_DATASETS or (colon and kind in DATASET_KINDS and where):
        return
    choices = ", ".join([*BUILT_IN_DATASETS, "folder:PATH", "parquet:PATH", "hub:NAME"])
    raise UserError(f"--dataset {dataset} is unknown: choose one of {choices}")


def _at_least(name: str, value: int | None, least: int) -> None:
    if value is not None and value < least:
        raise UserError(f"{_flag(name)} must be at least {least}, got {value}")


def _within(name: str, value: float, interval: str, holds: bool) -> None:
    if not holds:
        raise UserError(f"{_flag(name)} must satisfy {interval}, got {value}")
