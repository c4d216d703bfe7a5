"""Options of pre-training beside those of the pairs: what is trained, how, where, and what is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Le

from fps_pretrain.common.options import (
    MAY_DIFFER,
    THREADS,
    WIDTH,
    Count,
    Decay,
    NotNegative,
    Option,
    OptionSet,
    Positive,
    Threads,
    Whole,
    Width,
    Workers,
)
from fps_pretrain.common.serve import Port
from fps_pretrain.config.method import defaults, names
from fps_pretrain.config.presets import Preset


@dataclass(frozen=True)
class MethodChoice(OptionSet):
    """Method and encoder"""

    method: Annotated[str | None, Option(choices=names)] = None
    """Self-supervised method (default: simsiam; simclr with the preset short). With the presets quick and short, on
    fractals, simsiam and moco have numbers for short runs."""
    method_options: Annotated[tuple[str, ...], Option(more=defaults)] = ()
    """The method's own numbers as NAME=VALUE."""
    source: str = "fractals"
    """fractals; folder:PATH for two crops of every image below a folder; dead-leaves or noise for two crops of such an
    image, to compare fractals with."""
    preset: Preset = "auto"
    """paper: the paper's recipe (100 epochs of 1,000,000 pairs); short: what beats random weights soonest (SimCLR, 20
    epochs of 256,000 pairs, a cosine per step after a warm-up), hours on a CPU; quick: minutes on a CPU; auto: paper on
    a GPU, quick without one. An option that is given wins over the preset's value."""
    arch: str = "resnet20"
    """Encoder: resnet20, resnet32, resnet44 or resnet56 (resnet8 for trials), or one of torchvision's by name, such as
    resnet18."""
    width: Annotated[Width, WIDTH] = 1
    """Multiplies the channels of resnet8 to resnet56 (the paper's expand)."""


@dataclass(frozen=True)
class TrainingOptions(OptionSet):
    """Budget and optimiser"""

    epochs: Annotated[int, Ge(1), Le(10**6)] | None = None
    """Epochs; the learning rate follows a cosine over them (default: the preset's)."""
    pairs_per_epoch: Annotated[int, Ge(1), Le(10**12)] | None = None
    """Pairs in an epoch; no class comes twice before every class has come once (default: the preset's; with --source
    folder:PATH and the presets paper and short, the number of images)."""
    batch_size: Annotated[int, Ge(2), Le(2**20)] | None = None
    """Pairs in a batch, over all devices together (default: the preset's)."""
    lr: Positive | None = None
    """Learning rate (default: batch / 256 times a reference, which is the method's own with SGD, 0.05 for simsiam, 0.03
    for moco, 0.12 for simclr and for moco in short runs, 0.06 for the others; 0.001 with AdamW; 0.3 with LARS)."""
    optimizer: Literal["sgd", "adamw", "lars"] = "sgd"
    """The paper's is SGD; lars adapts each layer's rate, for large batches."""
    schedule: Literal["epoch", "step"] | None = None
    """How often the learning rate follows its cosine: every epoch as in the paper, or every step (default: the
    preset's)."""
    warmup_pairs: Whole | None = None
    """Pairs over which the learning rate rises to its full value, with --schedule step; fewer than the run's (default:
    the preset's, 25,600 with short, or a twentieth of a run of fewer than 102,400)."""
    momentum: Decay = 0.9
    """Momentum of SGD and LARS (of AdamW: beta 1)."""
    weight_decay: Decay = 1e-4
    """Weight decay."""
    ema: Decay = 0.0
    """Decay of an exponential moving average of the weights, such as 0.999, which is probed and written in place of the
    last weights; 0 for none. It does not change training."""
    precision: Literal["auto", "32", "bf16"] = "auto"
    """bf16: bfloat16 autocast; auto: bf16 where the processor or the GPU multiplies it, else 32. A run that is resumed
    with auto goes on as it began."""
    compile: bool = False
    """Compile the networks with torch.compile: a minute at the start, then more pairs a second with a ResNet-20 on a
    CPU (where it needs a C++ compiler)."""


@dataclass(frozen=True)
class ExecutionOptions(OptionSet):
    """Where it is computed"""

    render: Annotated[Literal["auto", "cpu", "device"], MAY_DIFFER] = "auto"
    """Where fractal pairs are made: by the CPU's threads, or on the device that trains; auto: by the CPU, but for a GPU
    where there are fewer than 4 cores for each."""
    workers: Annotated[Workers | None, THREADS] = None
    """Threads that make pairs on the CPU while the network trains (processes, where --source is no fractals); 0 makes
    them between two steps (default: 1 on a CPU; for each GPU its share of the cores less one, 1 to 8)."""
    threads: Annotated[Threads | None, THREADS] = None
    """CPU threads of PyTorch in the training process (default: as many as PyTorch chooses). Use 1 on a machine that is
    busy."""
    device: Annotated[Literal["auto", "cpu", "cuda"], MAY_DIFFER] = "auto"
    """Where training runs."""
    devices: Annotated[Count, MAY_DIFFER] = 1
    """GPUs (or CPU processes) of a machine that train together; they share the batch."""
    nodes: Annotated[Count, MAY_DIFFER] = 1
    """Machines that train together, as in a Slurm job."""


@dataclass(frozen=True)
class RecordOptions(OptionSet):
    """What is written"""

    log_every: Count = 10
    """Steps between two lines of the log."""
    save_every: Count = 10
    """Epochs between two encoder checkpoints in the run folder."""
    state_every: Annotated[NotNegative, MAY_DIFFER] = 120.0
    """Seconds between two saves of the state to resume from."""
    probe_every: Annotated[Annotated[int, Ge(0), Le(10**18)] | None, MAY_DIFFER] = None
    """Pairs between two looks at the encoder's quality (kNN accuracy, the training page); 0 for only at the end
    (default: an epoch)."""
    probe_data: Annotated[str, MAY_DIFFER] = "digits"
    """Labelled images for the probe: digits, or a folder that holds CIFAR-10 (train.parquet, or torchvision's batches)
    or one folder of images for each class. A part of the training images is held out; test images are never used."""
    linear_probe: Annotated[bool, MAY_DIFFER] = False
    """Also train a linear classifier on the frozen features at every probe."""
    mlflow: Annotated[bool, MAY_DIFFER] = False
    """Send losses and probes to MLflow, too: to MLFLOW_TRACKING_URI, or without it into the run folder (pip install
    -e '.[mlflow]'). TensorBoard's files are always written."""
    serve: Annotated[Port | None, MAY_DIFFER] = None
    """Show the run folder in a browser on this machine while the program runs: a port of 127.0.0.1, or 0 for a free
    one."""
    output: Annotated[Path | None, MAY_DIFFER] = None
    """Encoder checkpoint to write (default: a name in checkpoints/ that says encoder, size, method and preset, such as
    fps_r20_quick.pt)."""
    run_dir: Annotated[Path | None, MAY_DIFFER] = None
    """Folder for the log and the state to resume from (default: runs/pretrain-METHOD-ARCH-PRESET)."""
    resume: Annotated[bool, MAY_DIFFER] = True
    """Go on from the state in the run folder; --no-resume keeps that folder beside the new one and starts over."""
