"""Which part of a model is trained, shared and kept by clients: ``--train`` and ``--personal``.

A classifier's state dict falls into three parts:

- shared: trained by the clients and combined by the server; it travels in every round.
- kept: trained by the clients and never sent (``--personal head``); each client has its own. FedPer (Arivazhagan et al.
  2019, "Federated Learning with Personalization Layers", section 3) keeps the last layers so.
- fixed: trained by nobody. Together with the kept part's first values it is sent to each client once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from federated.config.run import RunConfig
from fps_pretrain.models.architectures import last_stage

HEAD = "head."
"""What the names of the head's tensors begin with."""

ENCODER = "encoder."
"""What the names of the encoder's tensors begin with."""


@dataclass(frozen=True)
class Parts:
    """Names in a model's state dict.

    Attributes:
        parameters: the shared parameters, which algorithms combine.
        buffers: the shared buffers, BatchNorm's statistics, which are combined beside them.
        kept: what each client keeps.
    """

    parameters: frozenset[str]
    buffers: frozenset[str]
    kept: frozenset[str]

    @classmethod
    def of(cls, model: nn.Module, config: RunConfig) -> Parts:
        """The parts of a run's model."""
        parameters = {name for name, _ in model.named_parameters()}
        trained = {name for name in model.state_dict() if _is_trained(name, config)}
        kept = {name for name in trained if config.personal == "head" and name.startswith(HEAD)}
        return cls(frozenset(trained & parameters - kept), frozenset(trained - parameters - kept), frozenset(kept))

    def shared(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The shared part of a state dict."""
        return {name: tensor for name, tensor in weights.items() if name in self.parameters or name in self.buffers}

    def fixed(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What is not shared: the fixed part, and the kept one as the run began with it."""
        shared = self.shared(weights)
        return {name: tensor for name, tensor in weights.items() if name not in shared}


def size_of(weights: Mapping[str, Tensor]) -> int:
    """Bytes of a state dict."""
    return sum(tensor.nbytes for tensor in weights.values())


def keeps_own_part(config: RunConfig) -> bool:
    """Whether clients keep a part of the model to themselves, which then is part of what they remember."""
    return config.bn_stats == "local" or config.personal == "head"


def own_part(weights: Mapping[str, Tensor], parts: Parts, config: RunConfig) -> dict[str, dict[str, Tensor]]:
    """What a client remembers of the model that it has trained: its statistics, its head, or nothing."""
    own: dict[str, dict[str, Tensor]] = {}
    if config.bn_stats == "local":
        own["statistics"] = {name: tensor for name, tensor in weights.items() if name in parts.buffers}
    if config.personal == "head":
        own["head"] = {name: tensor for name, tensor in weights.items() if name in parts.kept}
    return own


def with_own_part(weights: Mapping[str, Tensor], state: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The weights with what a client remembers of ``own_part``, if it does."""
    return {**weights, **state.get("statistics", {}), **state.get("head", {})}


def _is_trained(name: str, config: RunConfig) -> bool:
    if config.train == "last-block":
        return name.startswith((HEAD, f"{ENCODER}{last_stage(config.arch)}."))
    return config.train == "all" or name.startswith(HEAD)


def freeze(model: nn.Module, config: RunConfig) -> None:
    """Have gradients computed for what is trained alone."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(_is_trained(name, config))


def is_frozen(module: nn.Module) -> bool:
    """Whether a module has parameters and none of them is trained."""
    trained = [parameter.requires_grad for parameter in module.parameters()]
    return bool(trained) and not any(trained)


def train_mode(model: nn.Module) -> None:
    """Put a model into training mode but for what is frozen, whose BatchNorm keeps and uses its statistics."""
    model.train()
    for module in model.modules():
        if is_frozen(module):
            module.eval()
