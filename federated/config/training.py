"""Options of rounds, of local training and of its privacy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Gt, Le, Lt

from federated.config.algorithm import names
from fps_pretrain.common.options import Count, Decay, NotNegative, Option, OptionSet, Positive, Whole, goes_with

MAX_NOISE = 1000.0
"""Largest noise multiplier."""

MAX_CLIP = 1e6
"""Largest norm to clip to."""

FEATURE_CACHE = 1000
"""Megabytes of features that a process keeps by default: those of four million images under ResNet-20."""


@dataclass(frozen=True)
class StrategyOptions(OptionSet):
    """Federated algorithm"""

    strategy: Annotated[str, Option(choices=names)] = "fedavg"
    """Federated algorithm; docs/algorithms.md has a table of them."""


@dataclass(frozen=True)
class TrainingOptions(OptionSet):
    """Rounds and local training"""

    rounds: Count = 20
    """Number of rounds."""
    local_epochs: Count = 2
    """Passes of a client over its examples in a round."""
    batch_size: Count = 16
    """Examples in a step of local SGD."""
    lr: Positive = 0.05
    """Learning rate of local SGD."""
    lr_schedule: Literal["constant", "cosine"] = "constant"
    """Learning rate over the rounds; cosine falls from --lr towards zero after the last round."""
    momentum: Decay = 0.9
    """Momentum of local SGD; its buffer starts at zero in every round."""
    weight_decay: NotNegative = 0.0005
    """Weight decay of local SGD."""
    augment: Literal["auto", "none", "crop", "standard"] = "auto"
    """Augmentation of training batches: crop (random shift by up to an eighth of the side), standard (crop and
    horizontal flip), none; auto is crop for digits, which a mirror changes, standard for all else, and none with
    --train head."""
    train: Literal["all", "head", "last-block"] = "all"
    """What clients train and send: the whole model; the head alone, on features of the frozen encoder that are computed
    once (linear probing); or the last residual stage of a ResNet and the head."""
    feature_cache: Annotated[
        Whole | None, Option(choice="train", defaults=(("head", FEATURE_CACHE),), may_differ=True)
    ] = None
    """Megabytes (10^6 bytes) of features that a process keeps with --train head; those of further clients are computed
    anew in every round."""


@dataclass(frozen=True)
class PersonalOptions(OptionSet):
    """Personal models"""

    personal: Literal["none", "head"] = "none"
    """Part of the model that stays with each client from round to round; head: clients share the encoder alone, and
    the global model is evaluated at each client under the client's own head, after the last round at least (FedPer)."""
    fine_tune_epochs: Whole = 0
    """Epochs for which each client trains a copy of the global model on its own examples when the model is evaluated at
    the clients, after the last round at least, to report its accuracy before and after."""


@dataclass(frozen=True)
class PrivacyOptions(OptionSet):
    """Differential privacy"""

    dp: Literal["none", "fixed", "adaptive"] = "none"
    """Central differential privacy: clients' updates are clipped to a fixed norm, or to one that follows a quantile of
    their norms, and Gaussian noise is added to their sum."""
    dp_noise: Annotated[
        Annotated[float, Gt(0), Le(MAX_NOISE)] | None,
        goes_with("dp", "fixed", "adaptive", default=1.0, why="nothing can be learned under more"),
    ] = None
    """Noise multiplier: the noise's standard deviation in units of the clipping norm."""
    dp_clip: Annotated[
        Annotated[float, Gt(0), Le(MAX_CLIP)] | None,
        goes_with("dp", "fixed", "adaptive", default=1.0, why="the noise grows with it"),
    ] = None
    """L2 norm to which a client's update is clipped, with --dp adaptive the first one."""
    dp_quantile: Annotated[Annotated[float, Gt(0), Lt(1)] | None, goes_with("dp", "adaptive", default=0.5)] = None
    """Share of the updates that --dp adaptive leaves unclipped."""
    dp_delta: Annotated[Annotated[float, Gt(0), Lt(1)] | None, goes_with("dp", "fixed", "adaptive", default=1e-5)] = (
        None
    )
    """Delta for which epsilon is reported; well below one over the number of clients."""
    dp_secret: Annotated[Whole | None, goes_with("dp", "fixed", "adaptive", server_only=True)] = None
    """Seed of the noise and of who takes part under --dp, known to the server alone; drawn afresh for each run unless
    given."""
