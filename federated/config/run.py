"""What a run is: one frozen dataclass, checked once, saved with the run.

Nothing heavy is imported here, so that ``--help`` and a wrong flag answer at once.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from fps_pretrain.common.errors import UserError
from fps_pretrain.models.architectures import check_architecture


class algorithms:  # noqa
    @staticmethod
    @cache
    def names():
        here = Path(__file__).parent.parent / "algorithms"
        return tuple(
            sorted(p.stem for p in here.glob("*.py") if p.stem not in ("__init__", "base", "averaging", "flower"))
        )

    @staticmethod
    @cache
    def options(name):
        import ast

        for s in ast.parse((Path(__file__).parent.parent / "algorithms" / f"{name}.py").read_text()).body:
            if isinstance(s, ast.ClassDef) and s.name == "Options":
                return {
                    a.target.id: ast.literal_eval(a.value)
                    for a in s.body
                    if isinstance(a, ast.AnnAssign) and "ClassVar" not in ast.unparse(a.annotation)
                }


BUILT_IN_DATASETS = ("digits", "cifar10", "cifar100", "tiny-imagenet")
"""Data sets by name; the others are given as ``KIND:WHERE``."""

DATASET_KINDS = ("folder", "parquet", "hub")
"""The prefixes of data sets that are given by a path or a name on the Hugging Face hub."""

INIT_SOURCES = ("torchvision", "timm", "shuffled")
"""The prefixes of weights to start from that are not a checkpoint as it is."""

FREE_ON_RESUME = (
    "engine", "device", "threads", "output", "data_dir", "tensorboard", "wandb",
    "workers", "client_timeout", "node_timeout", "min_clients",
)  # fmt: skip
"""Fields that may differ when a run is resumed: where it is computed, how long that may take and how much of it is
enough, and where its folder and its data lie now."""

DETAILS: dict[str, tuple[str, tuple[str, ...], Any]] = {
    "alpha": ("partition", ("dirichlet", "inner-dirichlet"), 0.3),
    "shards_per_client": ("partition", ("shards",), 2),
    "classes_per_client": ("partition", ("pathological",), 2),
    "size_skew": ("partition", ("size",), "linear"),
    "id_column": ("partition", ("natural",), None),
    "init_statistics": ("norm", ("batch",), "checkpoint"),
    "bn_stats": ("norm", ("batch",), "average"),
    "dp_noise": ("dp", ("fixed", "adaptive"), 1.0),
    "dp_clip": ("dp", ("fixed", "adaptive"), 1.0),
    "dp_quantile": ("dp", ("adaptive",), 0.5),
    "dp_delta": ("dp", ("fixed", "adaptive"), 1e-5),
}
"""Fields that only some values of another field use: that field, those values, and the default with them. Without such
a value they are None, and giving one is refused: a flag that does nothing is a mistake."""

PRIVATE = ("fedavg", "fedavgm", "fedadam", "fedyogi", "fedadagrad", "fedprox", "moon")
"""Strategies that use clients' replies through their mean alone, which is what ``--dp`` protects."""


@dataclass(frozen=True)
class RunConfig:
    """A federated run.

    Raises:
        UserError: a value is out of range; the message names the flag and the range.
    """

    init: str = "random"
    """Weights the encoder starts from: 'random', the path of a checkpoint (run_pretrain.py's, or a state dict),
    torchvision:NAME or timm:NAME (published weights of that model, which --arch must name, too), or shuffled:PATH (a
    checkpoint with the entries of each tensor in random order, the control for what it has learned)."""
    head: Literal["random", "centroid"] = "random"
    """Classifier a run starts from: fresh, or made of the class means of all clients' features (FedNCM)."""
    init_statistics: Literal["checkpoint", "clients"] | None = None
    """BatchNorm's statistics a run starts from: those that come with --init (default), or those of all clients' images,
    which need no labels."""
    arch: str = "resnet20"
    """Architecture of the encoder: a CIFAR ResNet (resnet20, 32, 44 or 56; He et al. 2016, section 4.2), or one of
    torchvision's, such as resnet18."""
    width: int = 1
    """Multiplier of a CIFAR ResNet's channels."""

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
    """Federated algorithm; README.md has a table of them."""
    server_lr: float | None = None
    """Step of the server: fedavgm and scaffold (default: 1), fedadam, fedyogi and fedadagrad (0.01)."""
    server_momentum: float | None = None
    """Momentum of the server in fedavgm (default: 0.9)."""
    beta1: float | None = None
    """Decay of the first moment in fedadam and fedyogi (default: 0.9)."""
    beta2: float | None = None
    """Decay of the second moment in fedadam and fedyogi (default: 0.99)."""
    tau: float | None = None
    """Added to the root of the second moment in fedadam, fedyogi and fedadagrad (default: 0.001)."""
    prox_mu: float | None = None
    """Weight of the proximal term in fedprox (default: 0.01)."""
    feddyn_alpha: float | None = None
    """Weight of the regularisation in feddyn (default: 0.01)."""
    moon_mu: float | None = None
    """Weight of the contrastive loss in moon (default: 1)."""
    moon_temperature: float | None = None
    """Temperature of the contrastive loss in moon (default: 0.5)."""
    q: float | None = None
    """Fairness of qfedavg; 0 is fedavg with clients that count the same (default: 0.1)."""
    q_lr: float | None = None
    """Learning rate whose inverse estimates the Lipschitz constant in qfedavg (default: --lr)."""
    trim: float | None = None
    """Share of the clients' values cut off at either end in trimmedmean (default: 0.2)."""
    malicious: int | None = None
    """Malicious clients that krum, multikrum and bulyan allow for in a round (default: 1)."""
    selected: int | None = None
    """Clients that multikrum averages (default: all participants but the malicious)."""
    norm: Literal["batch", "group"] = "batch"
    """Normalisation layers of the model; group replaces each BatchNorm by GroupNorm, which has no statistics."""
    bn_stats: Literal["average", "local", "server"] | None = None
    """BatchNorm's statistics after a round: the clients' average (default), each client's own and their average for
    the server, or estimated by the server on its validation images."""
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

    client_timeout: float | None = None
    """Seconds a client has for a round; one that takes longer is left out of it (default: no limit)."""
    node_timeout: float = 600.0
    """Seconds to wait for nodes."""
    min_clients: int = 1
    """A round counts if so many clients succeed; otherwise the run stops with exit code 3."""
    inject_failures: float = 0.0
    """Share of the clients' rounds made to fail: by an error, weights that are not a number or, with --client-timeout,
    slowness."""

    engine: Literal["inprocess", "ray"] = "inprocess"
    """How clients are run: in this process (or its --workers), or in parallel by Flower's simulation on Ray."""
    workers: int | None = None
    """Processes that train clients side by side (default: none in process, one for every --threads cores on Ray)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device that trains and evaluates; auto takes a GPU if there is one."""
    precision: Literal["32", "bf16"] = "32"
    """bf16: the encoder computes in bfloat16, twice as fast where the hardware multiplies it; weights and what is sent
    stay in 32 bits."""
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
        _at_least("width", self.width, 1)
        check_architecture(self.arch, self.width)
        _check_init(self.init, self.arch, self.width)
        if self.data_dir is not None and not self.dataset.startswith(("cifar", "tiny-imagenet", "hub:")):
            raise UserError(
                f"--data-dir goes with cifar10, cifar100, tiny-imagenet and hub:NAME, not with --dataset {self.dataset}"
            )
        if self.dataset == "tiny-imagenet" and self.data_dir is None:
            raise UserError("--dataset tiny-imagenet needs --data-dir: the folder tiny-imagenet-200")
        if self.partition == "natural":
            self._check_natural()
        if self.partition == "nodes":
            self._check_nodes()
        if self.dp != "none":
            self._check_privacy()
        if self.strategy not in algorithms.names():
            raise UserError(f"--strategy {self.strategy} is unknown: choose one of {', '.join(algorithms.names())}")
        self._settle_options()
        for name in ("clients", "min_partition_size", "rounds", "local_epochs", "min_clients"):
            _at_least(name, getattr(self, name), 1)
        for name in ("batch_size", "eval_every", "eval_batch_size", "limit_train", "limit_test", "threads", "workers"):
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
        _within("inject_failures", self.inject_failures, "0 <= value <= 1", 0 <= self.inject_failures <= 1)
        timeout = self.client_timeout
        _within("client_timeout", timeout, "0 < value", timeout is None or 0 < timeout < float("inf"))
        if self.min_clients > self.participants:
            raise UserError(f"--min-clients {self.min_clients} is more than the {self.participants} of a round")
        if self.bn_stats == "server" and not self.validation:
            raise UserError("--bn-stats server needs --validation above 0: the images the statistics are taken from")
        self._check_options()

    def _settle_options(self) -> None:
        """Give the strategy's options their defaults and refuse those of other strategies."""
        taken = algorithms.options(self.strategy)
        for name in sorted({option for strategy in algorithms.names() for option in algorithms.options(strategy)}):
            if getattr(self, name) is None:
                object.__setattr__(self, name, taken.get(name))
            elif name not in taken:
                users = [strategy for strategy in algorithms.names() if name in algorithms.options(strategy)]
                raise UserError(f"{_flag(name)} goes with --strategy {' or '.join(users)}, not with {self.strategy}")

    def _check_options(self) -> None:
        """Refuse options of the strategy that are out of range or leave it too few participants."""
        infinity = float("inf")
        for name in ("server_lr", "tau", "feddyn_alpha", "moon_temperature", "q_lr"):
            value = getattr(self, name)
            _within(name, value, "0 < value", value is None or 0 < value < infinity)
        for name in ("prox_mu", "moon_mu", "q"):
            value = getattr(self, name)
            _within(name, value, "0 <= value", value is None or 0 <= value < infinity)
        for name in ("server_momentum", "beta1", "beta2"):
            value = getattr(self, name)
            _within(name, value, "0 <= value < 1", value is None or 0 <= value < 1)
        _within("trim", self.trim, "0 < value < 0.5", self.trim is None or 0 < self.trim < 0.5)
        _at_least("malicious", self.malicious, 0)
        _at_least("selected", self.selected, 1)
        if self.participants < self.least_replies:
            if self.trim is not None:
                raise UserError(f"--trim {self.trim:g} cuts nobody off {self.participants} participants of a round")
            raise UserError(
                f"--strategy {self.strategy} with --malicious {self.malicious} needs {self.least_replies} participants "
                f"in a round, not {self.participants}: raise --clients or --participation"
            )
        if self.selected is not None and self.selected > self.participants:
            raise UserError(f"--selected {self.selected} is more than the {self.participants} participants of a round")

    @property
    def least_replies(self) -> int:
        """Replies without which the strategy is not what its name promises."""
        if self.trim is not None:
            return math.ceil(1 / self.trim)
        if self.malicious is None:
            return 1
        # Krum needs 2f + 2 < n (Blanchard et al. 2017, proposition 1), Bulyan 4f + 3 <= n (El Mhamdi et al. 2018).
        return (4 if self.strategy == "bulyan" else 2) * self.malicious + 3

    def option(self, name: str) -> Any:
        """The value of a field that the chosen strategy has given a default."""
        value = getattr(self, name)
        assert value is not None, f"{self.strategy} has no {name}"
        return value

    @property
    def participants(self) -> int:
        """How many clients train in a round: a share of them, at least one."""
        return max(1, round(self.participation * self.clients))

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

    def _check_nodes(self) -> None:
        # The default holds nothing out here: the server has no training examples.
        if self.validation in (RunConfig.validation, 0.0):
            object.__setattr__(self, "validation", 0.0)
        for name, value in (("validation", self.validation), ("limit_train", self.limit_train)):
            if value:
                raise UserError(
                    f"{_flag(name)} does not go with --partition nodes: the nodes have the training examples"
                )

    def _check_privacy(self) -> None:
        if self.strategy not in PRIVATE:
            raise UserError(f"--dp goes with --strategy {', '.join(PRIVATE)}, not with {self.strategy}")
        if self.head == "centroid":
            raise UserError("--dp does not cover --head centroid, for which clients send class means as they are")
        if self.init_statistics == "clients":
            raise UserError("--dp does not cover --init-statistics clients, for which clients send sums as they are")

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
        return Path("runs") / f"{data}-{self.partition}{detail}-{init_name(self.init)}-s{self.seed}"


def init_name(init: str) -> str:
    """A short name for ``--init``, for folders and legends: ``checkpoints/fps_r20.pt`` is fps_r20."""
    source, _, rest = init.partition(":")
    return f"{source}-{Path(rest).stem}" if source in INIT_SOURCES else Path(init).stem


def unused_beside(values: Mapping[str, Any], chosen: Collection[str]) -> set[str]:
    """Those of ``values``, fields by name, that belong to a choice which the fields in ``chosen`` make anew."""
    options = {name for strategy in algorithms.names() for name in algorithms.options(strategy)}
    choice_of = {name: choice for name, (choice, _, _) in DETAILS.items()} | dict.fromkeys(options, "strategy")
    return {name for name in values if choice_of.get(name) in chosen and name not in chosen}


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
    if isinstance(values.get("precision"), int):  # what 32 is without quotes
        values["precision"] = str(values["precision"])
    return RunConfig(**values)


def differences(saved: RunConfig, asked: RunConfig) -> list[str]:
    """Flags whose values would make ``asked`` another run than ``saved``; ``FREE_ON_RESUME`` never do."""
    return [
        f"{_flag(field.name)} {getattr(saved, field.name)} (now {getattr(asked, field.name)})"
        for field in dataclasses.fields(RunConfig)
        if field.name not in FREE_ON_RESUME and getattr(saved, field.name) != getattr(asked, field.name)
    ]


def identity(config: RunConfig) -> str:
    """What makes a run the run it is, as text: all fields but ``FREE_ON_RESUME``."""
    fields = (field.name for field in dataclasses.fields(config))
    return "\n".join(f"{name}: {getattr(config, name)}" for name in fields if name not in FREE_ON_RESUME)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


@cache
def _types() -> dict[str, Any]:
    return get_type_hints(RunConfig)


def _check_type(name: str, value: Any) -> None:
    """Refuse a value of the wrong type or outside a Literal: the command line never gives one, YAML and code may."""
    hint = _types()[name]
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
    if source not in INIT_SOURCES:
        return
    if not name:
        example, kind = ("checkpoints/fps_r20.pt", "checkpoint") if source == "shuffled" else ("resnet18", "model")
        raise UserError(f"--init {init} names no {kind}: for example {source}:{example}")
    if source == "shuffled":
        return
    # timm adds the recipe of the training after a dot, as in resnet18.a1_in1k.
    if name.partition(".")[0] != arch or width != 1:
        raise UserError(f"--init {init} is not a {arch} of width {width}: pass --arch {name.partition('.')[0]}")


def _at_least(name: str, value: int | None, least: int) -> None:
    if value is not None and value < least:
        raise UserError(f"{_flag(name)} must be at least {least}, got {value}")


def _within(name: str, value: float | None, interval: str, holds: bool) -> None:
    if value is not None and not holds:
        raise UserError(f"{_flag(name)} must satisfy {interval}, got {value}")
