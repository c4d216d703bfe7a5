"""What a run is: one frozen dataclass, checked once, saved with the run.

Nothing heavy is imported here, so that ``--help`` and a wrong flag answer at once.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from federated import algorithms
from fps_pretrain.errors import UserError

BUILT_IN_DATASETS = ("digits", "cifar10", "cifar100", "tiny-imagenet")
"""Data sets by name; the others are given as ``KIND:WHERE``."""

DATASET_KINDS = ("folder", "parquet", "hub")
"""The prefixes of data sets that are given by a path or a name on the Hugging Face hub."""

FREE_ON_RESUME = ("engine", "device", "threads", "output", "data_dir", "tensorboard", "wandb")
"""Fields that may differ when a run is resumed: where it is computed, and where its folder and its data lie now."""

DETAILS: dict[str, tuple[str, tuple[str, ...], Any]] = {
    "alpha": ("partition", ("dirichlet", "inner-dirichlet"), 0.3),
    "shards_per_client": ("partition", ("shards",), 2),
    "classes_per_client": ("partition", ("pathological",), 2),
    "size_skew": ("partition", ("size",), "linear"),
    "id_column": ("partition", ("natural",), None),
    "dp_noise": ("dp", ("fixed", "adaptive"), 1.0),
    "dp_clip": ("dp", ("fixed", "adaptive"), 1.0),
    "dp_quantile": ("dp", ("adaptive",), 0.5),
    "dp_delta": ("dp", ("fixed", "adaptive"), 1e-5),
}
"""Fields that only some values of another field use: that field, those values, and the default with them. Without such
a value they are None, and giving one is refused: a flag that does nothing is a mistake."""


@dataclass(frozen=True)
class RunConfig:
    """A federated run.

    Raises:
        UserError: a value is out of range; the message names the flag and the range.
    """

    init: str = "random"
    """Weights the encoder starts from: 'random', the path of a checkpoint (run_pretrain.py's, or a state dict),
    torchvision:NAME or timm:NAME (published weights of that model, which --arch must name, too)."""
    head: Literal["random", "centroid"] = "random"
    """Classifier a run starts from: fresh, or made of the class means of all clients' features (FedNCM)."""
    arch: Literal["resnet20", "resnet32", "resnet44", "resnet56"] = "resnet20"
    """Architecture of the encoder: a CIFAR ResNet (He et al. 2016, section 4.2)."""
    width: int = 1
    """Multiplier of the encoder's channels."""

    dataset: str = "digits"
    """digits (bundled with scikit-learn), cifar10, cifar100, tiny-imagenet, folder:PATH (train/ and test/ with one
    folder a class), parquet:PATH (train*.parquet and test*.parquet) or hub:NAME (on the Hugging Face hub)."""
    data_dir: Path | None = None
    """Where cifar10 or cifar100 lies (train.parquet and test.parquet, or torchvision's folder; downloaded if left out),
    the folder tiny-imagenet-200, or where hub:NAME keeps its downloads."""
    limit_train: int | None = None
    """Use only so many training examples, the same ones for every seed."""
    limit_test: int | None = None
    """Use only so many test examples, the same ones for every seed."""
    image_size: int | None = None
    """Side in pixels to which images are brought, short side resized, centre cropped (default: 64 for tiny-imagenet,
    32 for all else)."""
    validation: float = 0.02
    """Share of the training examples held out from the clients and evaluated beside the test set."""

    clients: int = 10
    """Number of clients."""
    partition: Literal["iid", "dirichlet", "inner-dirichlet", "shards", "pathological", "size", "natural", "nodes"] = (
        "dirichlet"
    )
    """How training examples are spread over the clients: in equal parts, by Dirichlet distributions (of each class over
    the clients, or of each client over the classes), by blocks of one label, by a number of classes a client, in
    unequal parts, by who made them (natural), or not at all: nodes have data of their own (with flwr run)."""
    alpha: float | None = None
    """Concentration of the Dirichlet partitions: the smaller, the fewer classes a client has (default: 0.3)."""
    shards_per_client: int | None = None
    """Blocks of examples sorted by label that a client gets in the shards partition (default: 2)."""
    classes_per_client: int | None = None
    """Classes that a client has in the pathological partition (default: 2)."""
    size_skew: Literal["linear", "square", "exponential"] | None = None
    """How the numbers of examples grow from client to client in the size partition (default: linear)."""
    id_column: str | None = None
    """Column that says who made an example, for the natural partition of parquet:PATH and hub:NAME; in folder:PATH it
    is the folder below the class, train/CLASS/WHO/."""
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

    dp: Literal["none", "fixed", "adaptive"] = "none"
    """Central differential privacy: clients' updates are clipped to a fixed norm, or to one that follows a quantile of
    their norms, and Gaussian noise is added to their sum."""
    dp_noise: float | None = None
    """Noise multiplier: the noise's standard deviation in units of the clipping norm (default: 1)."""
    dp_clip: float | None = None
    """L2 norm to which a client's update is clipped, with --dp adaptive the first one (default: 1)."""
    dp_quantile: float | None = None
    """Share of the updates that --dp adaptive leaves unclipped (default: 0.5)."""
    dp_delta: float | None = None
    """Delta for which epsilon is reported (default: 1e-5); well below one over the number of clients."""

    seed: int = 0
    """Seed of the partition, the fresh weights, who takes part and every batch."""
    eval_every: int = 1
    """Evaluate after every so many rounds, and always after the last."""
    eval_batch_size: int = 256
    """Examples in a batch of the evaluation."""
    per_client_every: int = 0
    """After every so many rounds, and after the last, clients evaluate the global model on test examples like their
    own; 0 never."""

    engine: Literal["inprocess", "ray"] = "inprocess"
    """How clients are run: one after the other in this process, or in parallel by Flower's simulation on Ray."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device that trains and evaluates; auto takes a GPU if there is one."""
    threads: int | None = None
    """CPU threads of PyTorch (default: all cores in process, 1 in each Ray worker). Use 1 on a machine that is busy."""
    tensorboard: bool = False
    """Write the rounds for TensorBoard, too, into the run folder."""
    wandb: bool = False
    """Send the rounds to Weights & Biases, too; its environment variables apply (pip install wandb)."""
    output: Path | None = None
    """Run folder (default: runs/ and a name made of data set, partition, init and seed)."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check_type(field.name, getattr(self, field.name))
        self._settle_details()
        _check_dataset(self.dataset)
        _check_init(self.init, self.arch, self.width)
        if self.data_dir is not None and not self.dataset.startswith(("cifar", "tiny-imagenet", "hub:")):
            raise UserError(
                f"--data-dir goes with cifar10, cifar100, tiny-imagenet and hub:NAME, not with --dataset {self.dataset}"
            )
        if self.dataset == "tiny-imagenet" and self.data_dir is None:
            raise UserError("--dataset tiny-imagenet needs --data-dir: the folder tiny-imagenet-200")
        if self.partition == "natural":
            self._check_natural()
        if self.strategy not in algorithms.names():
            raise UserError(f"--strategy {self.strategy} is unknown: choose one of {', '.join(algorithms.names())}")
        for name in ("width", "clients", "min_partition_size", "rounds", "local_epochs"):
            _at_least(name, getattr(self, name), 1)
        for name in ("batch_size", "eval_every", "eval_batch_size", "limit_train", "limit_test", "threads"):
            _at_least(name, getattr(self, name), 1)
        for name in ("shards_per_client", "classes_per_client"):
            _at_least(name, getattr(self, name), 1)
        _at_least("seed", self.seed, 0)
        _at_least("per_client_every", self.per_client_every, 0)
        # The encoder halves the image twice, and BatchNorm needs more than one value a channel.
        _at_least("image_size", self.image_size, 8)
        _within("validation", self.validation, "0 <= value < 1", 0 <= self.validation < 1)
        for name in ("alpha", "dp_noise", "dp_clip"):
            _within(name, getattr(self, name), "0 < value", 0 < (getattr(self, name) or 0.0) < float("inf"))
        for name in ("dp_quantile", "dp_delta"):
            _within(name, getattr(self, name), "0 < value < 1", 0 < (getattr(self, name) or 0.0) < 1)
        _within("participation", self.participation, "0 < value <= 1", 0 < self.participation <= 1)
        _within("lr", self.lr, "0 < value", 0 < self.lr < float("inf"))
        _within("momentum", self.momentum, "0 <= value < 1", 0 <= self.momentum < 1)
        _within("weight_decay", self.weight_decay, "0 <= value", 0 <= self.weight_decay < float("inf"))

    def _settle_details(self) -> None:
        """Give the fields of ``DETAILS``, and the image size, the defaults that the other fields imply."""
        for name, (choice, values, default) in DETAILS.items():
            chosen = getattr(self, choice)
            # A default is no demand: it may come from a configuration whose other field was another.
            if getattr(self, name) in (None, default):
                # Frozen for everybody else: a configuration is completed here and never changes again.
                object.__setattr__(self, name, default if chosen in values else None)
            elif chosen not in values:
                raise UserError(f"{_flag(name)} goes with {_flag(choice)} {' or '.join(values)}, not with {chosen}")
        if self.image_size is None:
            object.__setattr__(self, "image_size", 64 if self.dataset == "tiny-imagenet" else 32)

    def _check_natural(self) -> None:
        kind = self.dataset.partition(":")[0]
        if kind not in DATASET_KINDS:
            raise UserError(f"--partition natural goes with folder:PATH, parquet:PATH and hub:NAME, not {self.dataset}")
        if (self.id_column is None) != (kind == "folder"):
            raise UserError(
                "--partition natural needs --id-column, the column that says who made an example"
                if kind != "folder"
                else "--id-column goes with parquet:PATH and hub:NAME; a folder's examples lie in train/CLASS/WHO/"
            )

    @property
    def partition_title(self) -> str:
        """The partition with its detail, for pictures and pages."""
        return {
            "iid": "IID",
            "dirichlet": f"Dirichlet({self.alpha})",
            "inner-dirichlet": f"inner Dirichlet({self.alpha})",
            "shards": f"{self.shards_per_client} shards a client",
            "pathological": f"{self.classes_per_client} classes a client",
            "size": f"IID, {self.size_skew} sizes",
            "natural": "by who made them",
            "nodes": "the nodes' own data",
        }[self.partition]

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
        detail = self.alpha or self.shards_per_client or self.classes_per_client or self.size_skew or ""
        init = Path(self.init.replace(":", "-")).stem
        return Path("runs") / f"{data}-{self.partition}{detail}-{init}-s{self.seed}"


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
    options = get_args(hint) if isinstance(hint, UnionType) or get_origin(hint) is Union else (hint,)
    for option in options:
        if get_origin(option) is Literal:
            if value in get_args(option):
                return
        elif isinstance(value, (int, float) if option is float else option) and (
            option is bool or not isinstance(value, bool)
        ):
            return
    for option in options:
        if get_origin(option) is Literal:
            raise UserError(f"{_flag(name)} {value} is unknown: choose one of {', '.join(get_args(option))}")
    expected = " or ".join("nothing" if option is type(None) else option.__name__ for option in options)
    raise UserError(f"{_flag(name)} must be of type {expected}, got {value!r}")


def _check_dataset(dataset: str) -> None:
    kind, colon, where = dataset.partition(":")
    if dataset in BUILT_IN_DATASETS or (colon and kind in DATASET_KINDS and where):
        return
    choices = ", ".join([*BUILT_IN_DATASETS, "folder:PATH", "parquet:PATH", "hub:NAME"])
    raise UserError(f"--dataset {dataset} is unknown: choose one of {choices}")


def _check_init(init: str, arch: str, width: int) -> None:
    """Refuse published weights that cannot be those of the encoder, before anything heavy is imported."""
    source, _, name = init.partition(":")
    if source not in ("torchvision", "timm"):
        return
    if not name:
        raise UserError(f"--init {init} names no model: for example {source}:resnet18")
    # timm adds the recipe of the training after a dot, as in resnet18.a1_in1k.
    if name.partition(".")[0] != arch or width != 1:
        raise UserError(f"--init {init} is not a {arch} of width {width}: pass --arch {name.partition('.')[0]}")


def _at_least(name: str, value: int | None, least: int) -> None:
    if value is not None and value < least:
        raise UserError(f"{_flag(name)} must be at least {least}, got {value}")


def _within(name: str, value: float | None, interval: str, holds: bool) -> None:
    if value is not None and not holds:
        raise UserError(f"{_flag(name)} must satisfy {interval}, got {value}")
