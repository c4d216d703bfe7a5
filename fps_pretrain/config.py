"""What a pre-training run is: flags, presets and checks. Imports nothing heavy: a wrong flag answers at once."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from fps_pretrain.errors import UserError
from fps_pretrain.fractals.recipe import Recipe, make_recipe
from fps_pretrain.methods import available_methods

Arch = Literal["resnet20", "resnet32", "resnet44", "resnet56"]
Preset = Literal["auto", "paper", "quick"]

PRESETS: dict[str, dict[str, Any]] = {
    # Chen et al., ICLR 2023, appendix; the released code's defaults.
    "paper": {"epochs": 100, "pairs_per_epoch": 1_000_000, "batch_size": 256},
    "quick": {"epochs": 10, "pairs_per_epoch": 10_240, "batch_size": 256},
}
DEFAULT_OUTPUT = {"paper": Path("checkpoints/fps_r20.pt"), "quick": Path("checkpoints/fps_r20_quick.pt")}

MAY_DIFFER_ON_RESUME = ("workers", "device", "threads", "resume", "output", "run_dir")
"""Fields that say where and how fast a run goes, not what it computes."""


@dataclass(frozen=True)
class PairOptions:
    """What pairs look like, shared by training and the preview."""

    size: int = 32
    """Side of a view in pixels."""
    classes: int = 100_000
    """Number of fractal codes."""
    objects: tuple[int, int] | None = None
    """Fewest and most objects in a view; None for the paper's (2 2 up to 64 px, 2 5 above)."""
    colour: Literal["random", "jitter"] = "random"
    """jitter gives a class the same hue shift in both views."""
    jitter: Literal["none", "basic", "fractaldb", "svd", "sval"] = "basic"
    """How a code varies from image to image."""
    background: Literal["black", "diamond-square"] = "black"
    """What is behind the objects."""
    composed_views: Literal[1, 2] = 2
    """1 makes both views of one composed image (the paper's ablation)."""
    seed: int = 0
    """Fixes codes and pairs (and, in training, the initial weights)."""

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            UserError: a value is out of range; the message names the flag.
        """
        self.recipe()
        if not 0 <= self.seed < 2**31:
            raise UserError(f"--seed must be in 0 .. 2^31 - 1, got {self.seed}")

    def recipe(self) -> Recipe:
        """The recipe in the form that compiled code takes."""
        return make_recipe(
            self.size,
            num_classes=self.classes,
            objects=self.objects,
            colour=self.colour,
            jitter=self.jitter,
            background=self.background,
            composed_views=self.composed_views,
        )


@dataclass(frozen=True)
class PretrainConfig(PairOptions):
    """Pre-train an encoder on fractal pairs. `run_pretrain.py preview` writes pairs to look at instead."""

    method: str = "simsiam"
    """Self-supervised method: simsiam."""
    preset: Preset = "auto"
    """paper: the paper's recipe (100 epochs of 1,000,000 pairs); quick: minutes on a CPU; auto: paper on a GPU, quick
    without one. It fills the fields below that are None."""
    arch: Arch = "resnet20"
    """Encoder."""
    width: int = 1
    """Multiplies the encoder's channels (the paper's expand)."""
    epochs: int | None = None
    """Epochs; the learning rate follows a cosine over them."""
    pairs_per_epoch: int | None = None
    """Pairs in an epoch; every class comes equally often."""
    batch_size: int | None = None
    """Pairs in a batch."""
    lr: float | None = None
    """Learning rate; None for the method's own, 0.05 x batch / 256 for SimSiam."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 1e-4
    """Weight decay of SGD."""
    precision: Literal["auto", "32", "bf16"] = "auto"
    """bf16: bfloat16 autocast; auto: bf16 where the processor has instructions for it, else 32."""
    workers: int | None = None
    """Processes that render pairs; 0 renders in the training process. None for 1 on a CPU, cores - 1 (8 at most) with a
    GPU."""
    threads: int | None = None
    """Threads of the training process; None leaves it to torch."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where training runs."""
    log_every: int = 10
    """Steps between two lines of the log."""
    save_every: int = 10
    """Epochs between two encoder checkpoints in the run folder."""
    output: Path | None = None
    """Encoder checkpoint to write; None for checkpoints/fps_r20.pt, with fps_r20_quick.pt for the quick preset."""
    run_dir: Path | None = None
    """Folder for the log and the state to resume from; None for runs/pretrain-METHOD-ARCH-PRESET."""
    resume: bool = True
    """Go on from the state in the run folder; --no-resume keeps that folder beside the new one and starts over."""

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            UserError: a value is out of range; the message names the flag.
        """
        super().__post_init__()
        if self.method not in available_methods():
            raise UserError(f"unknown --method '{self.method}': choose one of {', '.join(available_methods())}")
        for name in ("width", "epochs", "pairs_per_epoch", "threads", "log_every", "save_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
        if self.batch_size is not None and self.batch_size < 2:
            raise UserError(f"--batch-size must be at least 2 (BatchNorm needs two), got {self.batch_size}")
        if self.workers is not None and self.workers < 0:
            raise UserError(f"--workers must be at least 0, got {self.workers}")
        if self.lr is not None and not 0 < self.lr < float("inf"):
            raise UserError(f"--lr must be a positive number, got {self.lr}")
        if not 0 <= self.momentum < 1:
            raise UserError(f"--momentum must be in [0, 1), got {self.momentum}")
        if not 0 <= self.weight_decay < 1:
            raise UserError(f"--weight-decay must be in [0, 1), got {self.weight_decay}")
        if None not in (self.pairs_per_epoch, self.batch_size) and self.pairs_per_epoch < self.batch_size:  # type: ignore[operator]
            raise UserError(f"--pairs-per-epoch ({self.pairs_per_epoch}) is less than --batch-size ({self.batch_size})")
        if self.output is not None and self.output.is_dir():
            raise UserError(f"--output {self.output} is a folder: name a file, such as {self.output / 'fps_r20.pt'}")

    def resolve(self, has_gpu: bool) -> PretrainConfig:
        """The same run with the preset's values filled in.

        Raises:
            UserError: the filled-in values do not go together.
        """
        preset = self.preset if self.preset != "auto" else ("paper" if has_gpu else "quick")
        filled = {name: value for name, value in PRESETS[preset].items() if getattr(self, name) is None}
        return replace(
            self,
            preset=preset,
            output=self.output or DEFAULT_OUTPUT[preset],
            run_dir=self.run_dir or Path("runs") / f"pretrain-{self.method}-{self.arch}-{preset}",
            **filled,
        )

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch of a resolved configuration; a remainder smaller than a batch is left out."""
        assert self.pairs_per_epoch is not None
        assert self.batch_size is not None
        return self.pairs_per_epoch // self.batch_size

    def to_dict(self) -> dict[str, Any]:
        """Plain values only, as YAML and checkpoints hold them."""
        return {
            name: str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

    def differing_fields(self, saved: dict[str, Any]) -> list[str]:
        """Names of the fields that make ``saved`` another run than this one."""
        mine = self.to_dict()
        names = (field.name for field in fields(self) if field.name not in MAY_DIFFER_ON_RESUME)
        return [name for name in names if mine[name] != saved.get(name)]


@dataclass(frozen=True)
class PreviewConfig(PairOptions):
    """Write random fractal pairs into a folder: single images and a labelled contact sheet."""

    output: Path = Path("preview")
    """Folder to write into; it must be new or empty."""
    pairs: int = 50
    """Number of pairs."""
    augment: bool = True
    """Show the views as the network sees them; --no-augment shows them as composed."""

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            UserError: a value is out of range; the message names the flag.
        """
        super().__post_init__()
        if not 1 <= self.pairs <= 1000:
            raise UserError(f"--pairs must be in 1 .. 1000, got {self.pairs}")


def write_yaml(path: Path, config: PretrainConfig) -> None:
    """Save a resolved configuration beside its run."""
    path.write_text(yaml.safe_dump(config.to_dict(), sort_keys=False))


def read_yaml(path: Path) -> dict[str, Any]:
    """The values of a saved configuration.

    Raises:
        UserError: the file is no mapping.
    """
    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read as YAML: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} is not a saved configuration")
    return values
