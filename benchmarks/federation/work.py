"""The work that all engines do: the same images, partition, network and steps."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from federated.client.augmentation import augment
from federated.config.run import RunConfig
from federated.data import sets
from federated.data.partition import make_partition
from fps_pretrain.images.pixels import normalise
from fps_pretrain.models.encoders import build_classifier, build_encoder

CLASSES = 10
BATCH = 32
VARIABLE = "FEDERATION_BENCHMARK"
"""The environment variable by which processes that an engine starts learn of the work."""


@dataclass(frozen=True)
class Work:
    """A federation to be timed: one local epoch a round, batches of 32, SGD with momentum, CIFAR's augmentation.

    Attributes:
        clients: how many, all of which train in every round.
        images: how many each has.
        model: the encoder.
        precision: 32 or bf16.
        rounds: how many; all but the first are timed.
        actors: processes of engines that have some, with one thread each.
        data: the folder of images.
        device: cpu or cuda.
    """

    clients: int
    images: int
    model: str
    precision: str
    rounds: int
    actors: int
    data: str
    device: str = "cpu"

    @classmethod
    def of_environment(cls) -> Work:
        """The work of this process."""
        return cls(**json.loads(os.environ[VARIABLE]))

    def to_environment(self) -> dict[str, str]:
        """The environment of a process that does the work."""
        return {**os.environ, VARIABLE: json.dumps(asdict(self)), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}

    def config(self, output: Path | None = None, engine: str = "inprocess", workers: int = 0) -> RunConfig:
        """The work as a run of this project."""
        return RunConfig(
            dataset=f"folder:{self.data}", partition="iid", clients=self.clients, validation=0.0, rounds=self.rounds,
            local_epochs=1, batch_size=BATCH, lr=0.05, augment="standard", arch=self.model, eval_every=10**6,
            precision=self.precision, threads=1, device=self.device, engine=engine, workers=workers, output=output,
            min_partition_size=1,
        )  # fmt: skip

    def examples(self) -> list[tuple[Tensor, Tensor]]:
        """Each client's images ``(n, 32, 32, 3)``, uint8, and labels ``(n,)``, on the device."""
        dataset = sets.load(self.config())
        images, labels = (torch.from_numpy(a).to(self.device) for a in (dataset.train.images, dataset.train.labels))
        parts = make_partition(self.config(), dataset.train.labels, dataset.train.user_ids)
        return [(images[torch.from_numpy(part)], labels[torch.from_numpy(part)]) for part in parts]

    def network(self) -> nn.Module:
        """The classifier."""
        model = build_classifier(build_encoder(self.model, seed=0), CLASSES, seed=0)
        return model.to(self.device, memory_format=torch.channels_last)

    def loss(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """The loss of a batch of images as the network takes them."""
        with torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bf16"):
            outputs = model(images)
        return F.cross_entropy(outputs.float(), labels)

    def train(self, model: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> None:
        """A client's round, as anybody would write it."""
        model.train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.0005)
        for batch in torch.randperm(len(labels), generator=generator).split(BATCH):
            optimizer.zero_grad()
            inputs = normalise(augment(images, batch, "standard", generator))
            self.loss(model, inputs, labels[batch]).backward()
            optimizer.step()


def write_images(folder: Path, count: int) -> None:
    """A data set of noise: ``count`` training images of ten classes, and one test image of each."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for part, number in (("train", count), ("test", CLASSES)):
        for index in range(number):
            where = folder / part / str(index % CLASSES)
            where.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(where / f"{index}.png")


def stamp(server_round: int) -> None:
    """Tell the process that measures that a round has ended."""
    print(f"ROUND {server_round} {time.monotonic()}", flush=True)
