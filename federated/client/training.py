"""Local training of one client: pure functions of weights, examples, hyper-parameters and a key.

Images stay uint8 ``(N, S, S, 3)`` on the device that trains; cropping, flipping and normalising are done a batch at a
time. The model is passed in and only lends its structure and memory: its weights are replaced before it is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from federated.client.augmentation import augment
from federated.client.gradients import Gradients, RecordedGradients
from federated.client.parts import train_mode
from federated.config.run import RunConfig
from federated.weights import Weights, all_finite, load_weights, weights_of
from fps_pretrain.common.keys import seed_of
from fps_pretrain.images.pixels import normalise
from fps_pretrain.models.hardware import on_device

ClientState = dict[str, Weights]
"""What a client remembers from round to round, such as a control variate: state dicts by name."""


class ClientDiverged(RuntimeError):
    """The loss of a client, or a weight, is no longer a finite number."""


def refuse_if_diverged(weights: Mapping[str, Tensor]) -> None:
    """See that all weights are finite numbers: the loss was taken before the last step.

    Raises:
        ClientDiverged: one is not.
    """
    if not all_finite(weights):
        raise ClientDiverged("the trained weights are not finite: lower --lr")


class ClientUpdate(NamedTuple):
    """What a client makes of a round.

    Attributes:
        weights: the trained state dict.
        num_examples: how many examples stand behind it.
        metrics: numbers by name, sent to the server.
        steps: how many steps of SGD were taken.
        extra: further state dicts for the server, by name.
        state: what the client wants to remember.
    """

    weights: Weights
    num_examples: int
    metrics: dict[str, float]
    steps: int
    extra: Mapping[str, Weights] = MappingProxyType({})
    state: Mapping[str, Weights] = MappingProxyType({})


@dataclass(frozen=True)
class ClientHyperparameters:
    """The hyper-parameters of local SGD in one round; ``augmentation`` is none, crop or standard."""

    lr: float
    momentum: float
    weight_decay: float
    local_epochs: int
    batch_size: int
    augmentation: str

    @classmethod
    def of(cls, config: RunConfig, server_round: int) -> ClientHyperparameters:
        """Those of ``server_round``, counted from 1."""
        return cls(
            lr=learning_rate(config, server_round),
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            local_epochs=config.local_epochs,
            batch_size=config.batch_size,
            augmentation=config.augmentation,
        )


def learning_rate(config: RunConfig, server_round: int) -> float:
    """The learning rate of a round counted from 1; cosine would reach zero one round after the last."""
    if config.lr_schedule == "constant":
        return config.lr
    return config.lr * 0.5 * (1 + math.cos(math.pi * (server_round - 1) / config.rounds))


@dataclass(frozen=True)
class Problem:
    """What is learned: how a batch becomes a model's input, and what its output should be.

    Attributes:
        inputs: ``(examples, batch of indices, hyper, generator)`` to the model's input.
        loss: ``(outputs, targets)`` to the mean loss over the batch.
    """

    inputs: Callable[[Tensor, Tensor, ClientHyperparameters, torch.Generator], Tensor]
    loss: Callable[[Tensor, Tensor], Tensor]


def image_inputs(images: Tensor, batch: Tensor, hyper: ClientHyperparameters, generator: torch.Generator) -> Tensor:
    """The images at ``batch``, augmented and normalised: uint8 ``(N, S, S, 3)`` to float ``(B, 3, S, S)``."""
    return normalise(augment(images, batch, hyper.augmentation, generator))


CLASSIFICATION = Problem(image_inputs, F.cross_entropy)
"""Images and labels, which every run of run_fl.py learns from."""


@dataclass(frozen=True)
class Client:
    """A client in a round: everything its training is a function of, beside the weights it starts from.

    Attributes:
        model: lends its structure; on the device of ``examples``.
        examples: ``(N, ...)``; images are uint8 ``(N, S, S, 3)``.
        targets: ``(N,)``; labels are int64.
        hyper: the hyper-parameters of the round.
        key: ``(seed, round, client)``, which fixes batches and augmentation.
        options: the algorithm's ``Options``.
        received: further state dicts from the server, by name.
        state: what the client remembers from its last round, nothing in its first.
        check: called before every batch; raises when the client's time is over.
        problem: what is learned.
        shared: names of the parameters that the server combines; None for all. The terms of algorithms are about these.
        recorded: this process's recordings of the model's steps, where it keeps any.
    """

    model: nn.Module
    examples: Tensor
    targets: Tensor
    hyper: ClientHyperparameters
    key: tuple[int, int, int]
    options: Any = None
    received: Mapping[str, Weights] = field(default_factory=dict)
    state: ClientState = field(default_factory=dict)
    check: Callable[[], None] = lambda: None
    problem: Problem = CLASSIFICATION
    shared: frozenset[str] | None = None
    recorded: RecordedGradients | None = None

    def parameters_of(self, weights: Mapping[str, Tensor]) -> Weights:
        """The entries of a state dict that are shared parameters of the model, in the model's order."""
        return {name: weights[name] for name, _ in self._shared()}

    def beside_parameters(self, weights: Mapping[str, Tensor]) -> list[tuple[nn.Parameter, Tensor]]:
        """Each shared parameter with a copy of its entry in ``weights``, on its device and in its layout."""
        return [
            (parameter, torch.empty_like(parameter, requires_grad=False).copy_(weights[name]))
            for name, parameter in self._shared()
        ]

    def _shared(self) -> list[tuple[str, nn.Parameter]]:
        named = self.model.named_parameters()
        return [(name, parameter) for name, parameter in named if self.shared is None or name in self.shared]


def local_sgd(
    client: Client,
    weights: Mapping[str, Tensor],
    *,
    adjust: Callable[[], None] | None = None,
    forward: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None,
) -> ClientUpdate:
    """Local SGD from ``weights`` (McMahan et al. 2017, "Communication-Efficient Learning", algorithm 1, ClientUpdate).

    Args:
        client: who trains, on what.
        weights: where training starts; left as they are.
        adjust: called before every step, to change the parameters' gradients.
        forward: from a batch's input to the model's output and a term to add to its loss; the model alone if None.

    Returns:
        The trained weights, N, the steps taken, and ``train_loss`` (without such a term) and ``train_accuracy``,
        averaged over all examples as they were trained on.

    Raises:
        ClientDiverged: the loss became infinite or not a number.
    """
    seed, server_round, number = client.key
    model, hyper, targets = client.model, client.hyper, client.targets
    # Drawn on the CPU whatever the device, so that a GPU trains on the same batches.
    generator = torch.Generator().manual_seed(seed_of(seed, "local", server_round, number))
    train_mode(model)
    if client.recorded and forward is None:
        gradients: Gradients = client.recorded
        client.recorded.prepare(_sizes(len(targets), hyper), lambda size: _first_batch(client, size))
    else:
        gradients = Gradients(model, client.problem.loss, targets.device, forward)
    load_weights(model, weights)
    on_gpu = targets.device.type == "cuda"
    # Python is asked once for all tensors: foreach gives the same sums in two thirds of the time.
    optimizer = torch.optim.SGD(
        model.parameters(), lr=hyper.lr, momentum=hyper.momentum, weight_decay=hyper.weight_decay,
        foreach=not on_gpu, fused=on_gpu,
    )  # fmt: skip
    tally = gradients.begin()
    seen = steps = 0
    with _draws_of_layers(seed_of(seed, "layers", server_round, number), targets.device):
        for _ in range(hyper.local_epochs):
            for batch in _batches(len(targets), hyper.batch_size, generator):
                client.check()
                target = targets[on_device(batch, targets.device)]
                inputs = client.problem.inputs(client.examples, batch, hyper, generator)
                gradients(inputs, target)
                if adjust:
                    adjust()
                optimizer.step()
                seen += len(batch)
                steps += 1
    train_loss = float(tally.loss) / seen
    if not math.isfinite(train_loss):
        raise ClientDiverged(f"the training loss is {train_loss}: lower --lr")
    metrics = {"train_loss": train_loss, "train_accuracy": int(tally.correct) / seen}
    return ClientUpdate(weights_of(model), len(targets), metrics, steps)


def _first_batch(client: Client, size: int) -> tuple[Tensor, Tensor]:
    """Input and targets of as many examples, to record a step with."""
    batch = torch.arange(size)
    inputs = client.problem.inputs(client.examples, batch, client.hyper, torch.Generator())
    return inputs, client.targets[:size]


@contextmanager
def _draws_of_layers(seed: int, device: torch.device) -> Iterator[None]:
    """Let what layers draw at random, as dropout does, follow from ``seed``.

    They know PyTorch's global generators only, which are left as they were.
    """
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def steps_in_a_round(examples: int, hyper: ClientHyperparameters) -> int:
    """How many steps ``local_sgd`` takes over so many examples."""
    return sum(_sizes(examples, hyper).values())


def _sizes(examples: int, hyper: ClientHyperparameters) -> dict[int, int]:
    """How many of these steps there are, by the size of their batch."""
    batches, last = divmod(examples, hyper.batch_size)
    sizes = {hyper.batch_size: hyper.local_epochs * batches} if batches else {}
    # One example has no batch statistics worth the name: BatchNorm would normalise it by itself.
    if last > 1 or (last == 1 and batches == 0):
        sizes[last] = hyper.local_epochs
    return sizes


def effective_steps(steps: int, momentum: float) -> float:
    """How many plain steps a number of steps with momentum are worth: the sum of the gradients' coefficients.

    ``||a||_1`` of Wang et al. (2020, "Tackling the Objective Inconsistency Problem", section 4.1, momentum
    SGD as local solver): a gradient goes on moving the weights for as long as momentum remembers it.
    """
    return (steps - momentum * (1 - momentum**steps) / (1 - momentum)) / (1 - momentum)


def _batches(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """An epoch's shuffled batches of indices, of the sizes that ``_sizes`` counts."""
    order = torch.randperm(count, generator=generator)
    for start in range(0, count, size):
        batch = order[start : start + size]
        if len(batch) > 1 or start == 0 or size == 1:
            yield batch
