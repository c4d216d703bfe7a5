"""What a comparison is: initialisations and seeds, and the runs that follow from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated

from experiments.comparison import slurm
from experiments.report.arms import arm_key, centralise, is_personal
from experiments.report.comparable import Difference
from experiments.report.runs import check_report_folder
from experiments.report.summary import check_targets
from federated.config.run import RunConfig, init_name
from fps_pretrain.common.errors import UserError
from fps_pretrain.common.options.flags import Merged

INSTEAD = (("init", "--inits"), ("seed", "--seeds"))
"""Options of a run that a comparison takes in another form."""


@dataclass(frozen=True)
class CompareConfig:
    """Compare initialisations over seeds; the first is the baseline. Every option of run_fl.py applies to all runs."""

    inits: tuple[str, ...] = ("random", "checkpoints/fps_r20.pt")
    """Initialisations, each as run_fl.py's --init takes it; the first is the baseline."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds; each gives one run of every initialisation, with the same partition, head and batches."""
    lrs: tuple[float, ...] = ()
    """Learning rates to choose from, for each initialisation by itself: that with the best validation accuracy after
    the last round of the first seed's run, the test set unseen; none for --lr."""
    tuning_rounds: int | None = None
    """Rounds of the runs that --lrs are tried with; none for --rounds, so that the best one counts as a run, too."""
    targets: tuple[float, ...] = ()
    """Test accuracies whose first round is reported; none for 50%, 75% and 90% of the baseline's best."""
    centralised: bool = False
    """Beside each initialisation, train it on one client that holds all data and sees as many examples, to see what
    federation costs."""
    jobs: int = 1
    """Runs side by side, each a process with one thread (or --threads); a run that fails then stops no other."""
    slurm: tuple[str, ...] = ()
    """Make each run a job of a Slurm cluster, --jobs at a time, with these options of sbatch, each NAME=VALUE, such as
    time=240 (minutes) partition=gpu gpus_per_node=1; needs the extra [slurm]."""
    analyses: bool = False
    """Put experiments.analyses' answers on the page, those that the runs' options allow."""
    allow_different: tuple[Difference, ...] = ()
    """Go on although the runs' data, budget, progress or revision of the code differ."""
    run: Annotated[RunConfig, Merged(instead=INSTEAD)] = field(default_factory=RunConfig)
    """Options of run_fl.py."""
    config: Path | None = None
    """YAML file of options, such as those of experiments/recipes, or, with --inits and --seeds, a run folder's
    config.yaml; flags override it."""

    def __post_init__(self) -> None:
        """Check what the runs' own configurations do not.

        Raises:
            UserError: no initialisation or seed, one named twice, --init or --seed instead of --inits or --seeds,
                learning rates to choose from and nothing to choose by, or a run's folder as the comparison's.
        """
        if self.run.init != RunConfig.init or self.run.seed != RunConfig.seed:
            raise UserError("a comparison takes --inits and --seeds, not --init and --seed")
        for flag, values in (("--inits", self.inits), ("--seeds", self.seeds)):
            if not values or len(set(values)) < len(values):
                raise UserError(f"{flag} must name one or more different values")
        if len(set(self.lrs)) < len(self.lrs):
            raise UserError("--lrs must name different values")
        if len({f"{rate:g}" for rate in self.lrs}) < len(self.lrs):
            raise UserError("--lrs must differ in their first six digits, which name the runs' folders")
        if self.lrs and is_personal(self.run):
            raise UserError("--lrs does not go with --personal head: no validation image has a client's head")
        if self.lrs and not self.run.validation:
            raise UserError("--lrs needs --validation above 0: the split that the choice is made on")
        check_targets(self.targets)
        check_report_folder(self.folder)
        if self.tuning_rounds is not None and not 1 <= self.tuning_rounds <= self.run.rounds:
            raise UserError(f"--tuning-rounds must lie between 1 and --rounds, got {self.tuning_rounds}")
        if self.jobs < 1:
            raise UserError(f"--jobs must be at least 1, got {self.jobs}")
        slurm.check(self.slurm)
        list(self.runs({})), list(self.candidates())

    @property
    def folder(self) -> Path:
        """The comparison's folder: --output, or a name under runs/ made of data set and partition."""
        if self.run.output is not None:
            return self.run.output
        default = self.run.folder
        return default.with_name(f"compare-{default.name.removesuffix('-random-s0')}")

    @property
    def title(self) -> str:
        """Data set, clients and partition, for page and picture."""
        return f"{self.run.dataset_title}, {self.run.clients_title}"

    def _run(
        self, init: str, seed: int, lr: float | None, *, centralised: bool, rounds: int | None = None
    ) -> RunConfig:
        name = init_name(init)
        if sum(init_name(other) == name for other in self.inits) > 1:
            name = f"{self.inits.index(init)}-{name}"
        if centralised:
            name += "-centralised"
        if lr is not None:
            name += f"-lr{lr:g}"
        if rounds is not None:
            name += f"-r{rounds}"
        output = self.folder / "runs" / f"{name}-s{seed}"
        lr = self.run.lr if lr is None else lr
        rounds = rounds or self.run.rounds
        # The comparison's folder is served, not each run's.
        run = replace(self.run, init=init, seed=seed, output=output, lr=lr, rounds=rounds, serve=None)
        return centralise(run) if centralised else run

    def _arms(self) -> Iterator[tuple[str, bool]]:
        """Each initialisation, and whether it is trained centralised; the federated ones first."""
        for centralised in (False, True) if self.centralised else (False,):
            for init in self.inits:
                yield init, centralised

    def candidates(self) -> Iterator[RunConfig]:
        """The first seed's runs with each of ``lrs``, one of which each arm goes on with."""
        for init, centralised in self._arms():
            for lr in self.lrs:
                yield self._run(init, self.seeds[0], lr, centralised=centralised, rounds=self.tuning_rounds)

    def runs(self, lrs: Mapping[str, float]) -> Iterator[RunConfig]:
        """The runs' configurations: all arms of a seed before the next seed.

        Args:
            lrs: the learning rate chosen for an arm, by ``arm_key``; --lr where there is none.
        """
        for seed in self.seeds:
            for init, centralised in self._arms():
                run = self._run(init, seed, None, centralised=centralised)
                yield self._run(init, seed, lrs.get(arm_key(run)), centralised=centralised)


OPTIONS = tuple(one.name for one in fields(CompareConfig) if one.name not in ("run", "config"))
"""Options of a comparison beside those of its runs, as a file may have them."""
