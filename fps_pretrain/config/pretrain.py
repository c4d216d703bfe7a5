"""What a pre-training run is: flags, presets and checks. Imports nothing heavy: a wrong flag answers at once."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from fps_pretrain.common import yaml_file
from fps_pretrain.common.errors import UserError
from fps_pretrain.common.files import check_output
from fps_pretrain.common.options import bare, fields_of, flag
from fps_pretrain.config.method import MethodOptions, options_of, texts_of, usual_lr
from fps_pretrain.config.pairs import PairOptions, read_numbers
from fps_pretrain.config.presets import USUAL, for_short_runs, values_of, warmup_of
from fps_pretrain.config.training import ExecutionOptions, MethodChoice, RecordOptions, TrainingOptions
from fps_pretrain.fractals.recipe import usual_objects
from fps_pretrain.models.architectures import check_architecture, is_cifar_resnet, short_name

FRACTALS = "fractals"
SYNTHETIC = ("dead-leaves", "noise")
"""Sources of other synthetic images, which ``pairs.synthetic`` draws."""
FOLDER = "folder:"
"""What ``--source`` begins with when it names a folder of images."""


@dataclass(frozen=True)
class PretrainConfig(  # its fields come from the last of these to the first
    RecordOptions, ExecutionOptions, TrainingOptions, MethodChoice, PairOptions
):
    """Pre-train an encoder on fractal pairs. `run_pretrain.py preview` writes pairs to look at instead."""

    def __post_init__(self, filled_in: tuple[tuple[str, Any], ...]) -> None:
        """Check the options, alone and together.

        Raises:
            UserError: a value is out of range; the message names the flag.
        """
        super().__post_init__(filled_in)
        for option, path in (("--output", self.output), ("--run-dir", self.run_dir)):
            if path is not None:
                check_output(option, path)
        check_architecture(self.arch, self.width)
        self._check_source()
        if self.method is None:
            read_numbers("--method-options", self.method_options)
        else:
            self.options()
        if self.render == "device" and not self.fractals:
            raise UserError("--render device makes fractals; other images are made or read by the CPU")
        self._check_budget()
        if self.output is not None and self.output.is_dir():
            raise UserError(f"--output {self.output} is a folder: name a file, such as {self.output / 'fps_r20.pt'}")

    def _check_budget(self) -> None:
        if self.batch_size is not None and (self.batch_size % self.world_size or self.batch_size < 2 * self.world_size):
            raise UserError(
                f"--batch-size {self.batch_size} is shared by {self.world_size} devices: it must be a multiple "
                "of that, with at least 2 pairs for each"
            )
        per_step = self.schedule == "step" or (self.schedule is None and self.preset == "short")
        if self.warmup_pairs and not per_step:
            raise UserError("--warmup-pairs needs --schedule step: a rate that changes once an epoch cannot warm up")
        pairs, batch = self.pairs_per_epoch, self.batch_size
        if pairs is not None and batch is not None and pairs < batch:
            raise UserError(f"--pairs-per-epoch ({pairs}) is less than --batch-size ({batch})")
        if self.epochs is not None and pairs is not None and batch is not None:
            whole = self.total_steps * batch
            if self.warmup_pairs and self.warmup_pairs >= whole:
                raise UserError(f"--warmup-pairs {self.warmup_pairs} must be less than the run's pairs, {whole}")

    def _check_source(self) -> None:
        if self.fractals:
            return
        if self.source not in SYNTHETIC and (self.folder is None or self.source == FOLDER):
            raise UserError(f"--source must be {FRACTALS}, {', '.join(SYNTHETIC)} or folder:PATH, got '{self.source}'")
        if self.folder is not None and not self.folder.is_dir():
            raise UserError(f"--source {self.source}: there is no folder {self.folder}")
        given = [
            one.flag
            for one in fields_of(PairOptions)
            if one.name not in ("size", "seed", "recipe_numbers") and getattr(self, one.name) != one.default
        ]
        given += [f"--recipe-numbers {text}" for text in self.recipe_numbers if not text.startswith("augment.")]
        if given:
            raise UserError(f"{', '.join(given)} changes fractals; with --source {self.source} it would do nothing")

    @property
    def fractals(self) -> bool:
        """Whether the pairs are fractals."""
        return self.source == FRACTALS

    @property
    def folder(self) -> Path | None:
        """The folder of images to train on, or None where images are drawn."""
        return Path(self.source.removeprefix(FOLDER)) if self.source.startswith(FOLDER) else None

    @property
    def view_size(self) -> int:
        """The side of a view in pixels, given or the paper's for this encoder."""
        return self.size if self.size is not None else self._usual_size

    @property
    def _usual_size(self) -> int:
        return 32 if is_cifar_resnet(self.arch) else 224

    @property
    def world_size(self) -> int:
        """Processes that train together, one for each device."""
        return self.devices * self.nodes

    def options(self) -> MethodOptions:
        """The options of the method, which ``method_options`` changes.

        Raises:
            UserError: one is not ``NAME=NUMBER``, the method does not have it, or it is out of range.
        """
        numbers = read_numbers("--method-options", self.method_options)
        return options_of(self.method or USUAL["method"], numbers)

    def resolve(self, has_gpu: bool, images: int | None = None) -> PretrainConfig:
        """The same run with the preset's values filled in, and those that follow from them.

        Args:
            has_gpu: what ``auto`` goes by.
            images: how many images the folder holds, the pairs of an epoch unless they are given.

        Raises:
            UserError: the filled-in values do not go together.
        """
        preset = self.preset if self.preset != "auto" else ("paper" if has_gpu else "quick")
        values = values_of(preset, self.view_size)
        if images is not None and preset in ("paper", "short"):
            values["pairs_per_epoch"] = images
        epochs, batch = self.epochs or values["epochs"], self.batch_size or values["batch_size"]
        steps = epochs * ((self.pairs_per_epoch or values["pairs_per_epoch"]) // batch)
        values["warmup_pairs"] = 0 if self.schedule == "epoch" else warmup_of(values["warmup_pairs"], steps * batch)
        if self.fractals:
            values |= self._for_short_runs(preset, self.method or values["method"], batch)
        else:  # the pairs' options are those of fractals
            del values["composed_views"], values["renders"]
        if self.pool:
            values["renders"] = "fresh"
        # Method options are given one by one, so that those that are left out are among them already.
        filled = {n: value for n, value in values.items() if n == "method_options" or getattr(self, n) is None}
        # What was trained is in the name, in one order everywhere: no run takes the name of a shipped encoder.
        size = "" if self.view_size == self._usual_size else f"{self.view_size}px"
        source = "" if self.fractals else self.source if self.folder is None else self.folder.resolve().name
        method = self.method or values["method"]
        named = "" if method == "simsiam" else method
        file = "_".join(filter(None, (source or "fps", short_name(self.arch, self.width), size, named, preset)))
        arch = self.arch if self.width == 1 else f"{self.arch}x{self.width}"
        run = "-".join(filter(None, ("pretrain", method, arch, size, source, preset)))
        resolved = replace(
            self,
            preset=preset,
            size=self.view_size,
            output=self.output or Path("checkpoints") / f"{file}.pt",
            run_dir=self.run_dir or Path("runs") / run,
            **filled,
        )
        options = resolved.options()
        follows = {n: value for n, value in resolved.usual_values().items() if getattr(resolved, n) is None}
        return replace(resolved, **follows, method_options=texts_of(options))

    def _for_short_runs(self, preset: str, method: str, batch_size: int) -> dict[str, Any]:
        """``presets.for_short_runs`` in the form of this run's fields; options of the user's stay as they are."""
        values = dict(for_short_runs(preset, method))
        given = {text.partition("=")[0] for text in self.method_options}
        added = (f"{name}={value:g}" for name, value in values.pop("method_options", {}).items() if name not in given)
        lr = values.pop("lr", None)
        if lr is not None and self.optimizer == "sgd":
            values["lr"] = lr * batch_size / 256
        return values | {"method_options": (*self.method_options, *added)}

    @property
    def usual_lr(self) -> float:
        """The learning rate that a run with this batch has where none is given."""
        assert self.batch_size is not None
        return usual_lr(self.method or USUAL["method"], self.optimizer, self.batch_size)

    def usual_values(self) -> dict[str, Any]:
        """What follows from the other options of a run with a batch, by name, where it is not given."""
        values: dict[str, Any] = {"lr": self.usual_lr}
        if self.fractals:
            values |= {"classes": self.usual_classes, "objects": usual_objects(self.view_size)}
        return values

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
        return {name: _plain(value) for name, value in asdict(self).items()}

    def _left_open(self, saved: dict[str, Any]) -> dict[str, Any]:
        """What a run has trained with where ``saved`` leaves it open, as files of earlier revisions do.

        The values follow from this configuration's other options; where those differ, they are named themselves.
        """
        if self.batch_size is None:
            return {}
        closed = {name: _plain(value) for name, value in self.usual_values().items() if saved[name] is None}
        texts = saved["method_options"]
        if saved["method"] == self.method and isinstance(texts, list) and all(isinstance(text, str) for text in texts):
            with suppress(UserError):  # a damaged file: the option is named as it stands there
                closed["method_options"] = list(texts_of(replace(self, method_options=tuple(texts)).options()))
        return closed

    def differences(self, saved: dict[str, Any]) -> list[str]:
        """Flags whose values make ``saved`` another run than this one, with both values."""
        mine, saved = self.to_dict(), type(self)().to_dict() | saved  # an option may be younger than the saved run
        saved |= self._left_open(saved)
        names = (field.name for field in fields(self) if field.name not in MAY_DIFFER_ON_RESUME)
        return [f"{flag(name)} {bare(saved[name])} (now {mine[name]})" for name in names if mine[name] != saved[name]]


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value


MAY_DIFFER_ON_RESUME = tuple(one.name for one in fields_of(PretrainConfig) if one.option.may_differ)
"""Fields that say where and how fast a run goes and what is looked at, not what it computes."""


def write_yaml(path: Path, config: PretrainConfig) -> None:
    """Save a resolved configuration beside its run."""
    yaml_file.write(path, config.to_dict())


def read_yaml(path: Path) -> dict[str, Any]:
    """The values of a saved configuration.

    Raises:
        UserError: the file cannot be read, or is no mapping.
    """
    return yaml_file.read(path)
