"""What an accuracy-against-pairs curve is: encoders, measures, seeds and the options of its federations."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from experiments.learning_curve.values import Measure
from federated.config.run import RunConfig
from fps_pretrain.common.errors import UserError
from fps_pretrain.common.files import check_output
from fps_pretrain.common.options.flags import Merged

INSTEAD = (("init", "checkpoints"), ("seed", "--seeds"))
"""Options of a run that a curve takes in another form."""


@dataclass(frozen=True)
class CurveConfig:
    """Accuracy on validation images against pairs seen. Every option of run_fl.py applies to the federations."""

    encoders: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[ENCODER ...]")] = ()
    """Checkpoints of run_pretrain.py, as PATH or LABEL=PATH; without a label, the method is it. Those of one label make
    a curve."""
    measures: tuple[Measure, ...] = ("knn", "linear", "federation")
    """What to measure."""
    seeds: tuple[int, ...] = (0, 1)
    """Seeds of the federations, and of the random weights."""
    lrs: tuple[float, ...] = ()
    """Learning rates of the federations: every encoder, and random weights, count with the rate that does best on
    average over the seeds, of those with which training diverges at none; none for --lr alone."""
    run: Annotated[RunConfig, Merged(instead=INSTEAD)] = field(default_factory=lambda: RunConfig(validation=0.5))
    """Options of run_fl.py."""
    config: Path | None = None
    """YAML file of options, such as a recipe of experiments.compare; flags override it."""

    def __post_init__(self) -> None:
        """Check what the runs' own configurations do not.

        Raises:
            UserError: nothing to measure, no validation split, or a flag that the others replace.
        """
        if self.run.init != RunConfig.init or self.run.seed != RunConfig.seed:
            raise UserError("a curve takes checkpoints and --seeds, not --init and --seed")
        for flag, values in (("--seeds", self.seeds), ("--measures", self.measures), ("--lrs", self.rates)):
            if not values or len(set(values)) < len(values):
                raise UserError(f"{flag} must name one or more different values")
        check_output("--output", self.folder)
        if self.folder.is_file():
            raise UserError(f"--output {self.folder} is a file: name a folder")
        for rate in self.rates:
            replace(self.run, lr=rate)
        if len({f"{rate:g}" for rate in self.rates}) < len(self.rates):
            raise UserError("--lrs must differ in their first six digits, which name the runs' folders")
        if "federation" in self.measures and self.run.personal == "head":
            raise UserError(
                "--personal head goes with --measures knn linear alone: no validation image has a client's head"
            )
        if not self.run.validation:
            raise UserError("--validation must be above 0: the validation split is what is classified")

    @property
    def rates(self) -> tuple[float, ...]:
        """Learning rates of the federations: --lrs, or --lr."""
        return self.lrs or (self.run.lr,)

    @property
    def folder(self) -> Path:
        """Where table, picture and runs are: --output, or runs/curve."""
        return self.run.output if self.run.output is not None else Path("runs/curve")
