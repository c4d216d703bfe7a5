"""Where a run starts: the encoder's weights, wherever they come from, and the classifier's head on top of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from federated.client.batch_norm import has_statistics, tracking_layers
from federated.config.model import RANDOM
from federated.config.run import RunConfig
from federated.data.downloads import CACHE
from federated.server.output.file_names import DATA_DIGEST
from fps_pretrain.common import yaml_file
from fps_pretrain.common.errors import UserError, check_installed, one_line, printable
from fps_pretrain.common.keys import seed_of
from fps_pretrain.models import shipped
from fps_pretrain.models.architectures import is_cifar_resnet
from fps_pretrain.models.checkpoint import LoadReport, load_encoder_weights
from fps_pretrain.models.checksum import digest
from fps_pretrain.models.encoders import Encoder, build_classifier, build_encoder, check_encoder
from fps_pretrain.models.tensor_file import write_atomically


def initial_encoder(config: RunConfig) -> tuple[Encoder, LoadReport | None]:
    """The encoder a run starts from, on the CPU, and what loading its weights did (None if they are random).

    Random weights depend on ``config.seed`` alone, or on the seed that ``config.init`` names.

    Raises:
        UserError: ``config.init`` is no checkpoint for this architecture (see ``load_encoder_weights``), or published
            weights that are neither in their library's cache nor to be downloaded; or the architecture has no BatchNorm
            where ``--init-statistics clients`` needs it.
    """
    source, _, name = config.init.partition(":")
    seed = int(name) if source == RANDOM and name else config.seed
    encoder = build_encoder(config.arch, config.width, seed_of(seed, "encoder"))
    if not is_cifar_resnet(config.arch):
        assert config.image_size is not None
        try:
            check_encoder(encoder, config.arch, config.image_size)
        except UserError as error:
            raise UserError(str(error).replace("--size", "--image-size")) from error
    if not has_statistics(encoder):
        _refuse_batch_norm(config)
    if source == RANDOM:
        return encoder, None
    sources = {"torchvision": torchvision_weights, "timm": timm_weights, "shuffled": shipped.resolve}
    path = sources.get(source, lambda _: shipped.resolve(config.init))(name)
    report = load_encoder_weights(path, encoder, config.arch, config.width)
    if source == "shuffled":
        shuffle_tensors(encoder, config.seed)
    return encoder, report


def _refuse_batch_norm(config: RunConfig) -> None:
    """Refuse what is about BatchNorm, for an encoder that has none.

    Raises:
        UserError: as said.
    """
    of_batch_norm = {
        "--init-statistics clients": config.init_statistics == "clients",
        "--norm group": config.norm == "group",
        "--bn-stats local": config.bn_stats == "local",
        "--bn-stats server": config.bn_stats == "server" and config.dp == "none",  # --dp sets it by itself
    }
    for option, asked in of_batch_norm.items():
        if asked:
            raise UserError(f"{option}: --arch {config.arch} has no BatchNorm")


def shuffle_tensors(encoder: nn.Module, seed: int) -> None:
    """Put the entries of each tensor of ``encoder`` into a random order, in place.

    The control for a warm start (layer-wise shuffling of Frankle et al. 2020, "The Early Phase of Neural Network
    Training"): weights of the same sizes layer by layer, in which nothing that was learned is left.
    """
    state = encoder.state_dict()
    for name, tensor in state.items():
        generator = torch.Generator().manual_seed(seed_of(seed, f"shuffle {name}"))
        state[name] = tensor.flatten()[torch.randperm(tensor.numel(), generator=generator)].view_as(tensor)
    encoder.load_state_dict(state)


def torchvision_weights(name: str) -> Path:
    """The file with torchvision's default weights of a model, downloaded if torch's hub cache lacks it.

    Raises:
        UserError: torchvision publishes no weights of that name, or they cannot be downloaded.
    """
    from torchvision.models import get_model_weights

    try:
        url = get_model_weights(name).DEFAULT.url  # type: ignore[attr-defined]
    except (ValueError, AttributeError) as error:
        raise UserError(f"--init torchvision:{name}: torchvision publishes no weights of that name") from error
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        # torchvision's file names end in the first digits of their SHA-256.
        checksum = path.stem.rpartition("-")[2]
        with one_line(f"--init torchvision:{name}: cannot download {url}; put it into {path.parent}"):
            torch.hub.download_url_to_file(url, str(path), hash_prefix=checksum, progress=False)
    return path


def timm_weights(name: str) -> Path:
    """A file with timm's weights of a model, such as ``resnet18.a1_in1k``; kept in a cache for the next run.

    Raises:
        UserError: timm is not installed, knows no such model, or cannot download its weights.
    """
    path = CACHE / f"timm-{name.replace('/', '-')}.pt"
    if path.is_file():
        return path
    check_installed(f"--init timm:{name}", "timm", "timm", extra="timm")
    import timm

    if not timm.is_model(name.partition(".")[0]):
        raise UserError(f"--init timm:{name}: timm knows no such model")
    with one_line(f"--init timm:{name}: timm cannot load its weights"):
        weights = timm.create_model(name, pretrained=True).state_dict()
    write_atomically(path, {"state_dict": weights})
    return path


def initial_classifier(config: RunConfig, encoder: Encoder, num_classes: int) -> nn.Module:
    """``encoder`` with a fresh head, the same for all runs of a seed, so that they differ in the encoder only."""
    return build_classifier(encoder, num_classes, seed_of(config.seed, "head"))


def batch_norm_sums_like(model: nn.Module) -> dict[str, Tensor]:
    """Zeros of the names, shapes and types of ``client.statistics.batch_norm_sums``."""
    like: dict[str, Tensor] = {"batches": torch.zeros((), dtype=torch.int64)}
    for name, layer in tracking_layers(model).items():
        like |= {f"{name}.{what}": torch.zeros(layer.num_features, dtype=torch.float64) for what in ("sum", "squares")}
        like[f"{name}.count"] = torch.zeros((), dtype=torch.float64)
    return like


def class_sums_like(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Zeros of the names, shapes and types of ``client.statistics.class_sums``."""
    classes, width = weights["head.weight"].shape
    sums = torch.zeros(classes, width, dtype=torch.float64)
    return {"sums": sums, "counts": torch.zeros(classes, dtype=torch.int64)}


def pooled_statistics(weights: Mapping[str, Tensor], clients: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """A model whose BatchNorm statistics are those of all clients' images (``--init-statistics clients``).

    A layer's mean is the mean over all clients' examples, its variance ``E[x^2] - E[x]^2`` over them: the mean of the
    clients' variances and the variance of their means, by the law of total variance. Like AdaBN (Li et al. 2017,
    "Revisiting Batch Normalization For Practical Domain Adaptation", section 3), without bringing the images together.

    For the first BatchNorm of an encoder, whose inputs depend on images alone, they are exactly those of the pooled
    images. Each deeper one sees what the layers below make of a client's batches, normalised by these batches' own
    statistics as in training: the more clients differ, the more this differs from what pooled batches would give.

    Args:
        weights: the classifier's; parameters are kept.
        clients: ``batch_norm_sums`` of each client, in client order, which fixes the rounding.

    Returns:
        The classifier's weights with the new statistics, in the type of the old.

    Raises:
        UserError: no client has two images.
    """
    total = {name: torch.stack([client[name] for client in clients]).sum(0) for name in clients[0]}
    pooled = dict(weights)
    for name in (name.removesuffix(".count") for name in total if name.endswith(".count")):
        count = total[f"{name}.count"]
        if not count:
            raise UserError("--init-statistics clients: no client has two images")
        mean = total[f"{name}.sum"] / count
        variance = (total[f"{name}.squares"] / count - mean.square()).clamp(min=0) * count / (count - 1)
        for what, value in (("mean", mean), ("var", variance), ("batches", total["batches"])):
            buffer = f"{name}.num_batches_tracked" if what == "batches" else f"{name}.running_{what}"
            pooled[buffer] = value.to(weights[buffer].dtype)
    return pooled


def centroid_head(weights: Mapping[str, Tensor], clients: Sequence[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """A classifier whose head is made of the class means of all clients' features, nothing trained.

    FedNCM (Legate et al. 2023, "Guiding The Last Layer in Federated Learning with Pre-Trained Models"):
    the row of a class is its mean feature, scaled to length one, without a bias, so that the class with the most
    similar mean (by cosine) wins. The means are those of the pooled examples, however they are spread over clients.

    Args:
        weights: the classifier's; the encoder's are kept.
        clients: ``class_sums`` of each client, in client order, which fixes the rounding.

    Returns:
        The classifier's weights with the new head; the row of a class that no client has is zero.
    """
    sums = torch.stack([total for total, _ in clients]).sum(0)
    counts = torch.stack([count for _, count in clients]).sum(0)
    means = sums / counts.clamp(min=1)[:, None]
    head = {
        "head.weight": F.normalize(means, dim=1).to(weights["head.weight"].dtype),
        "head.bias": torch.zeros_like(weights["head.bias"]),
    }
    return {**weights, **head}


def describe_provenance(report: LoadReport | None) -> str:
    """What a checkpoint says of its pre-training, to be put behind other words; nothing if it says nothing."""
    said = report.provenance if report else {}
    parts = [printable(said["method"])[:80]] if "method" in said else []
    if type(said.get("pairs_seen")) is int:
        parts.append(f"{said['pairs_seen']:,} pairs")
    return "".join(f", {part}" for part in parts)


def write_record(
    path: Path, config: RunConfig, report: LoadReport | None, weights: Mapping[str, Tensor], data_digest: str
) -> None:
    """Write what a run began with (YAML): where its weights came from, what of them was loaded, and all digests."""
    encoder = {name.removeprefix("encoder."): t for name, t in weights.items() if name.startswith("encoder.")}
    record: dict[str, Any] = {
        "init": config.init,
        "arch": config.arch,
        "width": config.width,
        "init_statistics": config.init_statistics,
        "encoder_sha256": digest(encoder),
        "head": config.head,
        "head_sha256": digest({name: t for name, t in weights.items() if name.startswith("head.")}),
    }
    if config.dp == "none":  # it would tell whoever guesses the data that the guess is right
        record[DATA_DIGEST] = data_digest
    if report:
        record["loaded"] = {
            "path": report.path,
            "matched": report.matched,
            "missing": report.missing,
            "unexpected": report.unexpected,
        }
        record["provenance"] = report.provenance
    yaml_file.write(path, record)
