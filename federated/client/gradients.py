"""Loss and gradients of a batch: computed operation by operation, or on a GPU recorded once and replayed.

A training step of a small network is hundreds of kernels that each take microseconds, less than Python needs to ask for
them. A CUDA graph asks for all of them at once: the same kernels in the same order, with the same results.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)

RECORD_AFTER = 8
"""Steps with batches of one size after which that size is recorded, which takes as long as some steps."""

WARM_UP = 3
"""Steps before a recording, in which PyTorch's libraries choose what they will use, as its documentation asks for."""

Loss = Callable[[Tensor, Tensor], Tensor]
"""``(outputs, targets)`` to the mean loss over the batch."""


class Tally:
    """What a client's steps add up, on the device that trains.

    Attributes:
        loss: the losses of all examples, float64 ``()``.
        correct: how many of them were classified correctly, int64 ``()``.
    """

    def __init__(self, device: torch.device) -> None:
        self.loss = torch.zeros((), dtype=torch.float64, device=device)
        self.correct = torch.zeros((), dtype=torch.int64, device=device)

    def add(self, loss: Tensor, outputs: Tensor, targets: Tensor) -> None:
        """Count a batch, given its mean loss."""
        self.loss += loss.detach().double() * len(targets)
        self.correct += (outputs.detach().argmax(1) == targets).sum()


class Recording(Protocol):
    """A function of no arguments that was called once and can be called again."""

    def replay(self) -> None:
        """Do what it did, with the same tensors; gradients are at the parameters afterwards."""


class CudaGraph:
    """The kernels that a function starts, and the gradients that it leaves at parameters."""

    def __init__(self, function: Callable[[], None], parameters: list[nn.Parameter]) -> None:
        stream, current = torch.cuda.Stream(), torch.cuda.current_stream()
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                function()
        current.wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            function()
        self._gradients = [(parameter, parameter.grad) for parameter in parameters]

    def replay(self) -> None:
        """Start the kernels."""
        self._graph.replay()
        for parameter, gradient in self._gradients:
            parameter.grad = gradient


class _Recorded:
    """The step on batches of one size, whose inputs are copied to where the recording reads them."""

    def __init__(
        self,
        step: Callable[[Tensor, Tensor], None],
        batch: tuple[Tensor, Tensor],
        record: Callable[[Callable[[], None], list[nn.Parameter]], Recording],
        parameters: list[nn.Parameter],
    ) -> None:
        self._inputs, self._targets = (tensor.clone() for tensor in batch)
        self._recording = record(lambda: step(self._inputs, self._targets), parameters)

    def __call__(self, inputs: Tensor, targets: Tensor) -> None:
        self._inputs.copy_(inputs)
        self._targets.copy_(targets)
        self._recording.replay()


class Gradients:
    """Gradients of a model's loss, computed operation by operation.

    Args:
        model: whose parameters get them.
        loss: of a batch.
        device: where the model is.
        forward: from a batch's input to the model's output and a term to add to its loss; the model alone if None.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        device: torch.device,
        forward: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None,
    ) -> None:
        self._model, self._loss, self._forward = model, loss, forward
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._tally = Tally(device)

    def begin(self) -> Tally:
        """A tally of zeros, to which the steps from now on add."""
        self._tally.loss.zero_()
        self._tally.correct.zero_()
        return self._tally

    def __call__(self, inputs: Tensor, targets: Tensor) -> None:
        """Leave a batch's gradients at the parameters, and count it."""
        for parameter in self._parameters:
            parameter.grad = None
        outputs, term = self._forward(inputs) if self._forward else (self._model(inputs), None)
        loss = self._loss(outputs, targets)
        (loss if term is None else loss + term).backward()
        self._tally.add(loss, outputs, targets)


class RecordedGradients(Gradients):
    """Gradients of one model, recorded for each size of batch that occurs often.

    Args:
        model: whose parameters and buffers stay where they are in memory.
        loss: of a batch.
        device: where the model is.
        record: how a function becomes a recording.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        device: torch.device,
        record: Callable[[Callable[[], None], list[nn.Parameter]], Recording] = CudaGraph,
    ) -> None:
        super().__init__(model, loss, device)
        self._record = record
        self._seen: Counter[int] = Counter()
        self._recorded: dict[int, _Recorded] = {}
        self._possible = True

    def prepare(self, steps: Mapping[int, int], batch_of: Callable[[int], tuple[Tensor, Tensor]]) -> None:
        """Record what occurs often enough; this trains the model, so that weights are loaded afterwards.

        Args:
            steps: how many steps are to come, by the size of their batch.
            batch_of: from a size to a batch, input and targets, like those that are to come.
        """
        self._seen.update(steps)
        for size in steps:
            if self._possible and size not in self._recorded and self._seen[size] > RECORD_AFTER:
                try:
                    self._recorded[size] = _Recorded(super().__call__, batch_of(size), self._record, self._parameters)
                except RuntimeError as error:  # an operation that waits for the GPU, as some models have
                    self._possible = False
                    log.info(f"steps cannot be recorded as CUDA graphs ({str(error).splitlines()[0]})")

    def __call__(self, inputs: Tensor, targets: Tensor) -> None:
        """Leave a batch's gradients at the parameters, and count it."""
        self._recorded.get(len(targets), super().__call__)(inputs, targets)
