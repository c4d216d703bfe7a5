"""Options of the data and of how they are spread over the clients."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from fps_pretrain.common.errors import UserError
from fps_pretrain.common.options import MAY_DIFFER, Count, Option, OptionSet, Positive, goes_with

BUILT_IN_DATASETS = ("digits", "cifar10", "cifar100", "tiny-imagenet")
"""Data sets by name; the others are given as ``KIND:WHERE``."""

MAX_IMAGE_SIZE = 1024
"""Largest side of an image in pixels."""

MAX_CLIENTS = 1_000_000
"""Most clients."""

DATASET_KINDS = ("folder", "parquet", "hub")
"""The prefixes of data sets that are given by a path or a name on the Hugging Face hub."""


@dataclass(frozen=True)
class DataOptions(OptionSet):
    """Data"""

    dataset: str = "digits"
    """digits (bundled with scikit-learn), cifar10, cifar100, tiny-imagenet, folder:PATH (train/ and test/ with one
    folder a class), parquet:PATH (train*.parquet and test*.parquet) or hub:NAME (on the Hugging Face hub)."""
    data_dir: Annotated[Path | None, MAY_DIFFER] = None
    """Where cifar10 or cifar100 lies (train.parquet and test.parquet, or torchvision's folder; downloaded if left out),
    the folder tiny-imagenet-200, or where hub:NAME keeps its downloads."""
    limit_train: Count | None = None
    """Use only so many training examples, the same ones for every seed."""
    limit_test: Count | None = None
    """Use only so many test examples, the same ones for every seed."""
    # The encoder halves the image twice, and BatchNorm needs more than one value a channel.
    image_size: Annotated[
        Annotated[int, Ge(8), Le(MAX_IMAGE_SIZE)] | None, Option(why="all images are held in memory")
    ] = None
    """Side in pixels to which images are brought, short side resized, centre cropped (default: 64 for tiny-imagenet,
    32 for all else)."""
    validation: Annotated[float, Ge(0), Lt(1)] = 0.02
    """Share of the training examples held out from the clients and evaluated beside the test set."""

    def check_dataset(self) -> None:
        """Refuse what is no data set, and settle the size of its images.

        Raises:
            UserError: as said.
        """
        kind, colon, where = self.dataset.partition(":")
        if self.dataset not in BUILT_IN_DATASETS and not (colon and kind in DATASET_KINDS and where):
            choices = ", ".join([*BUILT_IN_DATASETS, "folder:PATH", "parquet:PATH", "hub:NAME"])
            raise UserError(f"--dataset {self.dataset} is unknown: choose one of {choices}")
        if self.data_dir is not None and not self.dataset.startswith(("cifar", "tiny-imagenet", "hub:")):
            raise UserError(
                f"--data-dir goes with cifar10, cifar100, tiny-imagenet and hub:NAME, not with --dataset {self.dataset}"
            )
        if self.dataset == "tiny-imagenet" and self.data_dir is None:
            raise UserError("--dataset tiny-imagenet needs --data-dir: the folder tiny-imagenet-200")
        self.fill_in("image_size", 64 if self.dataset == "tiny-imagenet" else 32)


@dataclass(frozen=True)
class PartitionOptions(DataOptions):
    """Clients and partition"""

    clients: Annotated[Annotated[int, Ge(1), Le(MAX_CLIENTS)], Option(why="the server keeps count of each")] = 10
    """Number of clients."""
    partition: Literal["iid", "dirichlet", "inner-dirichlet", "shards", "pathological", "size", "natural", "nodes"] = (
        "dirichlet"
    )
    """How training examples are spread over the clients: in equal parts, by Dirichlet distributions (of each class over
    the clients, or of each client over the classes), by blocks of one label, by a number of classes a client, in
    unequal parts, by who made them (natural), or not at all: nodes have data of their own (with flwr run)."""
    alpha: Annotated[Positive | None, goes_with("partition", "dirichlet", "inner-dirichlet", default=0.3)] = None
    """Concentration of the Dirichlet partitions: the smaller, the fewer classes a client has."""
    shards_per_client: Annotated[Count | None, goes_with("partition", "shards", default=2)] = None
    """Blocks of examples sorted by label that a client gets in the shards partition."""
    classes_per_client: Annotated[Count | None, goes_with("partition", "pathological", default=2)] = None
    """Classes that a client has in the pathological partition."""
    size_skew: Annotated[
        Literal["linear", "square", "exponential"] | None, goes_with("partition", "size", default="linear")
    ] = None
    """How the numbers of examples grow from client to client in the size partition."""
    id_column: Annotated[str | None, goes_with("partition", "natural")] = None
    """Column that says who made an example, for the natural partition of parquet:PATH and hub:NAME; in folder:PATH it
    is the folder below the class, train/CLASS/WHO/."""
    min_partition_size: Count = 2
    """Fewest examples a client may have."""
    participation: Annotated[float, Gt(0), Le(1)] = 1.0
    """Share of the clients that train in a round; with --dp the probability with which each client does."""

    @property
    def participants(self) -> int:
        """How many clients train in a round, with ``--dp`` on average: a share of them, at least one."""
        return max(1, round(self.participation * self.clients))

    @property
    def dataset_title(self) -> str:
        """The data set, for pictures and pages: of a folder or a file its own name, not where it lies."""
        kind, _, where = self.dataset.partition(":")
        return Path(where).name if kind in ("folder", "parquet") else self.dataset

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
    def clients_title(self) -> str:
        """How many clients there are and how the data are spread over them, for pictures and pages."""
        if self.clients == 1:
            return "all data at one client"
        return f"{self.clients} clients, {self.partition_title}"

    def check_partition(self) -> None:
        """Refuse what the partition cannot do with the data set.

        Raises:
            UserError: as said.
        """
        if self.partition == "natural":
            self._check_natural()
        if self.partition == "nodes":
            self._check_nodes()

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
        # The server has no training examples to hold out: the default counts as unset.
        if self.validation == DataOptions.validation:
            object.__setattr__(self, "validation", 0.0)
        for name, value in (("validation", self.validation), ("limit-train", self.limit_train)):
            if value:
                raise UserError(f"--{name} does not go with --partition nodes: the nodes have the training examples")
