"""What a pre-training run is: flags, presets and checks. Imports nothing heavy: a wrong flag answers at once."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from fps_pretrain.common.errors import UserError
from fps_pretrain.common.files import write_text_atomically
from fps_pretrain.fractals.recipe import Recipe, make_recipe
from fps_pretrain.methods import available_methods
from fps_pretrain.models.architectures import check_architecture, is_cifar_resnet, short_name

Preset = Literal["auto", "paper", "short", "quick"]

PRESETS: dict[str, dict[str, Any]] = {
    # Chen et al., ICLR 2023, appendix; the released code's defaults, the same for every encoder and size.
    "paper": {"epochs": 100, "pairs_per_epoch": 1_000_000, "batch_size": 256},
    # Measured: contrasting within the batch overtakes random weights after 100,000 pairs, where SimSiam has not after
    # 1,280,000 (experiments/results).
    "short": {
        "method": "simclr",
        "epochs": 20,
        "pairs_per_epoch": 256_000,
        "batch_size": 256,
        "schedule": "step",
        "warmup_pairs": 25_600,
    },
    "quick": {"epochs": 10, "pairs_per_epoch": 10_240, "batch_size": 256},
    # A pair of 224 px costs a CPU a hundred times what one of 32 px does.
    "quick, large": {"epochs": 4, "pairs_per_epoch": 512, "batch_size": 32},
}

USUAL: dict[str, Any] = {"method": "simsiam", "schedule": "epoch", "warmup_pairs": 0}
"""What fields are that neither the user nor the preset has given."""

MAY_DIFFER_ON_RESUME = (
    *("render", "workers", "device", "devices", "nodes", "threads", "resume", "output", "run_dir"),
    *("state_every", "probe_every", "probe_data", "linear_probe"),
)
"""Fields that say where and how fast a run goes and what is looked at, not what it computes."""

MAX_THREADS = 1024

FOLDER = "folder:"
"""What ``--source`` begins with when it names a folder of images."""


def read_numbers(flag: str, texts: tuple[str, ...]) -> dict[str, float]:
    """Numbers given as ``NAME=VALUE``.

    Raises:
        UserError: one is not ``NAME=NUMBER``; the message names the flag.
    """
    numbers = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            numbers[name] = float(value)
        except ValueError:
            raise UserError(f"{flag} takes NAME=NUMBER, got '{text}'") from None
        if not math.isfinite(numbers[name]):
            raise UserError(f"{flag} {text} is not a finite number")
    return numbers


@dataclass(frozen=True)
class PairOptions:
    """What pairs look like, shared by training and the preview."""

    size: int | None = None
    """Side of a view in pixels; None for the paper's: 32, or 224 with an encoder of torchvision's."""
    classes: int | None = None
    """Number of fractal codes; None for 100,000, or all of --codes."""
    codes: Path | None = None
    """File of codes (.npz) to take instead of those of the seed."""
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
    pool: int = 0
    """Pairs that share a pool of images, 1024 for about what the released code does; 0 renders every object of every
    view afresh."""
    recipe_numbers: tuple[str, ...] = ()
    """Any other number of the recipe as NAME=VALUE, such as compose.scale_low=0.3 augment.grey_probability=0; the
    README lists them."""
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

    @property
    def view_size(self) -> int:
        """The side of a view in pixels, given or not."""
        return self.size if self.size is not None else 32

    @property
    def num_classes(self) -> int:
        """How many codes there are to draw from.

        Raises:
            UserError: the file of codes is none, or holds fewer than asked for.
        """
        if self.codes is None:
            return self.classes if self.classes is not None else 100_000
        from fps_pretrain.fractals.code_file import count_codes

        held = count_codes(self.codes)
        if self.classes is not None and self.classes > held:
            raise UserError(f"--classes {self.classes}: {self.codes} holds {held} codes")
        return self.classes if self.classes is not None else held

    def recipe(self) -> Recipe:
        """The recipe in the form that compiled code takes."""
        return make_recipe(
            self.view_size,
            num_classes=self.num_classes,
            objects=self.objects,
            colour=self.colour,
            jitter=self.jitter,
            background=self.background,
            composed_views=self.composed_views,
            pool=self.pool,
            numbers=read_numbers("--recipe-numbers", self.recipe_numbers),
        )


@dataclass(frozen=True)
class PretrainConfig(PairOptions):
    """Pre-train an encoder on fractal pairs. `run_pretrain.py preview` writes pairs to look at instead."""

    method: str | None = None
    """Self-supervised method: simsiam, moco (MoCo v2), simclr, byol, barlowtwins or vicreg; None for simsiam, with the
    short preset simclr."""
    method_options: tuple[str, ...] = ()
    """The method's own numbers as NAME=VALUE. moco: queue=65536 momentum=0.999 temperature=0.2
    group=32 (views that one device normalises together); simclr: temperature=0.5; byol: momentum=0.996 hidden=512;
    barlowtwins: width=512 redundancy=0.005; vicreg: width=512 invariance=25 variance=25 covariance=1."""
    source: str = "fractals"
    """fractals, or folder:PATH for two crops of every image below a folder."""
    preset: Preset = "auto"
    """paper: the paper's recipe (100 epochs of 1,000,000 pairs); short: what beats random weights soonest (SimCLR, 20
    epochs of 256,000 pairs, a cosine per step after a warm-up), hours on a CPU; quick: minutes on a CPU; auto: paper on
    a GPU, quick without one. It fills the fields that are None."""
    arch: str = "resnet20"
    """Encoder: resnet20, resnet32, resnet44 or resnet56, or one of torchvision's by name, such as resnet18."""
    width: int = 1
    """Multiplies the channels of resnet20 to resnet56 (the paper's expand)."""
    epochs: int | None = None
    """Epochs; the learning rate follows a cosine over them."""
    pairs_per_epoch: int | None = None
    """Pairs in an epoch; every class comes equally often. None with --source folder: the number of images."""
    batch_size: int | None = None
    """Pairs in a batch, over all devices together."""
    lr: float | None = None
    """Learning rate; None for batch / 256 times the method's own with SGD (0.05 for simsiam, 0.03 for moco, 0.12 for
    simclr, 0.06 for the others) and times 0.001 with AdamW."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """The paper's is SGD."""
    schedule: Literal["epoch", "step"] | None = None
    """How often the learning rate follows its cosine: every epoch as in the paper, or every step; None for the
    preset's."""
    warmup_pairs: int | None = None
    """Pairs over which the learning rate rises to its full value, with --schedule step; None for the preset's."""
    momentum: float = 0.9
    """Momentum of SGD (of AdamW: beta 1)."""
    weight_decay: float = 1e-4
    """Weight decay."""
    precision: Literal["auto", "32", "bf16"] = "auto"
    """bf16: bfloat16 autocast; auto: bf16 where the processor has instructions for it, else 32."""
    compile: bool = False
    """Compile the networks with torch.compile: a minute at the start, then about a third more pairs a second on a CPU
    (where it needs a C++ compiler)."""
    render: Literal["auto", "cpu", "device"] = "auto"
    """Where fractal pairs are made: by the CPU's threads, or on the device that trains; auto: on a GPU that trains."""
    workers: int | None = None
    """Threads that make pairs on the CPU while the network trains (processes, for a folder of images); 0 makes them
    between two steps. None for 1 on a CPU, cores - 1 (8 at most) with a GPU."""
    threads: int | None = None
    """Threads of the training process; None leaves it to torch."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where training runs."""
    devices: int = 1
    """GPUs (or CPU processes) of a machine that train together; they share the batch."""
    nodes: int = 1
    """Machines that train together, as in a Slurm job."""
    log_every: int = 10
    """Steps between two lines of the log."""
    save_every: int = 10
    """Epochs between two encoder checkpoints in the run folder."""
    state_every: float = 120.0
    """Seconds between two saves of the state to resume from."""
    probe_every: int | None = None
    """Pairs between two looks at the encoder's quality (kNN accuracy, the training page); None for an epoch, 0 for only
    at the end."""
    probe_data: str = "digits"
    """Labelled images for the probe: digits, or a folder that holds CIFAR-10 (train.parquet, or torchvision's batches)
    or one folder of images for each class. A part of the training images is held out; test images are never used."""
    linear_probe: bool = False
    """Also train a linear classifier on the frozen features at every probe."""
    output: Path | None = None
    """Encoder checkpoint to write; None for checkpoints/fps_r20.pt, fps_r20_quick.pt for the quick preset, and names in
    that manner for other encoders, methods and sources."""
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
        if self.method is not None and self.method not in available_methods():
            raise UserError(f"unknown --method '{self.method}': choose one of {', '.join(available_methods())}")
        check_architecture(self.arch, self.width)
        self._check_source()
        self.options()
        for name in ("threads", "workers"):
            value = getattr(self, name)
            if value is not None and value > MAX_THREADS:
                raise UserError(f"--{name} must be at most {MAX_THREADS}, got {value}")
        if self.render == "device" and self.folder is not None:
            raise UserError("--render device makes fractals; images of a folder are read by the CPU")
        for name in ("epochs", "pairs_per_epoch", "threads", "devices", "nodes", "log_every", "save_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
        if self.batch_size is not None and self.batch_size < 2:
            raise UserError(f"--batch-size must be at least 2 (BatchNorm needs two), got {self.batch_size}")
        if self.batch_size is not None and (self.batch_size % self.world_size or self.batch_size < 2 * self.world_size):
            raise UserError(
                f"--batch-size {self.batch_size} is shared by {self.world_size} devices: it must be a multiple "
                "of that, with at least 2 pairs for each"
            )
        for name in ("workers", "probe_every", "state_every"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise UserError(f"--{name.replace('_', '-')} must be at least 0, got {value}")
        if self.warmup_pairs is not None and self.warmup_pairs < 0:
            raise UserError(f"--warmup-pairs must be at least 0, got {self.warmup_pairs}")
        per_step = self.schedule == "step" or (self.schedule is None and self.preset == "short")
        if self.warmup_pairs and not per_step:
            raise UserError("--warmup-pairs needs --schedule step: a rate that changes once an epoch cannot warm up")
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

    def _check_source(self) -> None:
        if self.source == "fractals":
            return
        if not self.source.startswith(FOLDER) or self.source == FOLDER:
            raise UserError(f"--source must be fractals or folder:PATH, got '{self.source}'")
        assert self.folder is not None
        if not self.folder.is_dir():
            raise UserError(f"--source {self.source}: there is no folder {self.folder}")
        given = [
            f"--{field.name.replace('_', '-')}"
            for field in fields(PairOptions)
            if field.name not in ("size", "seed", "recipe_numbers") and getattr(self, field.name) != field.default
        ]
        given += [f"--recipe-numbers {text}" for text in self.recipe_numbers if not text.startswith("augment.")]
        if given:
            raise UserError(f"{', '.join(given)} changes fractals; with --source folder it would do nothing")

    @property
    def folder(self) -> Path | None:
        """The folder of images to train on, or None for fractals."""
        return Path(self.source.removeprefix(FOLDER)) if self.source.startswith(FOLDER) else None

    @property
    def view_size(self) -> int:
        """The side of a view in pixels, given or the paper's for this encoder."""
        return self.size if self.size is not None else 32 if is_cifar_resnet(self.arch) else 224

    @property
    def world_size(self) -> int:
        """Processes that train together, one for each device."""
        return self.devices * self.nodes

    def options(self) -> dict[str, float]:
        """``method_options`` by name.

        Raises:
            UserError: one is not ``NAME=NUMBER``.
        """
        return read_numbers("--method-options", self.method_options)

    def resolve(self, has_gpu: bool, images: int | None = None) -> PretrainConfig:
        """The same run with the preset's values filled in.

        Args:
            has_gpu: what ``auto`` goes by.
            images: how many images the folder holds, the pairs of an epoch unless they are given.

        Raises:
            UserError: the filled-in values do not go together.
        """
        preset = self.preset if self.preset != "auto" else ("paper" if has_gpu else "quick")
        large = preset == "quick" and self.view_size > 64
        values = USUAL | PRESETS["quick, large" if large else preset]
        if images is not None and preset in ("paper", "short"):
            values["pairs_per_epoch"] = images
        if self.schedule == "epoch":
            values["warmup_pairs"] = 0
        filled = {name: value for name, value in values.items() if getattr(self, name) is None}
        # fps_r20.pt is the paper's first row; what differs from it is in the name, in one order everywhere.
        usual_size = 32 if is_cifar_resnet(self.arch) else 224
        size = "" if self.view_size == usual_size else f"{self.view_size}px"
        source = "" if self.folder is None else self.folder.resolve().name
        method = self.method or values["method"]
        named = "" if method == "simsiam" else method
        budget = "" if preset == "paper" else preset
        file = "_".join(filter(None, (source or "fps", short_name(self.arch, self.width), size, named, budget)))
        arch = self.arch if self.width == 1 else f"{self.arch}x{self.width}"
        run = "-".join(filter(None, ("pretrain", method, arch, size, source, preset)))
        return replace(
            self,
            preset=preset,
            size=self.view_size,
            output=self.output or Path("checkpoints") / f"{file}.pt",
            run_dir=self.run_dir or Path("runs") / run,
            **filled,
        )

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch of a resolved configuration; a remainder smaller than a batch is left out."""
        assert self.pairs_per_epoch is not None
        assert self.batch_size is not None
        return self.pairs_per_epoch // self.batch_size

    @property
    def total_steps(self) -> int:
        """Optimiser steps of a resolved run."""
        assert self.epochs is not None
        return self.epochs * self.steps_per_epoch

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
    write_text_atomically(path, yaml.safe_dump(config.to_dict(), sort_keys=False))


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
