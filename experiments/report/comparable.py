"""Which runs may stand side by side: those of the same data, budget, progress and revision of the code."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Literal

from experiments.report.arms import passes, same_budget
from experiments.report.runs import Run
from fps_pretrain.common import environment
from fps_pretrain.common.errors import UserError
from fps_pretrain.common.wording import counted

Difference = Literal["data", "budget", "progress", "revision"]

DATA_FIELDS = ("dataset", "limit_train", "limit_test", "image_size", "validation")


def _data(run: Run) -> str:
    values = ((name.replace("_", "-"), getattr(run.config, name)) for name in DATA_FIELDS)
    return ", ".join(f"{name} {value}" for name, value in values if value is not None)


def _content(run: Run) -> str:
    return f"images and labels of SHA-256 {run.data_digest[:16]}"


def _budget(run: Run) -> str:
    return f"{passes(run.config):g} passes over the training examples"


def _progress(run: Run) -> str:
    last = max(run.rounds)
    return "all its rounds" if last == run.config.rounds else f"{last} of its {counted(run.config.rounds, 'round')}"


def _revision(run: Run) -> str:
    return run.environment.get("revision", "")


_DIFFERENCES: dict[Difference, Callable[[Run], str]] = {
    "data": _data, "budget": _budget, "progress": _progress, "revision": _revision
}  # fmt: skip


def check(runs: Sequence[Run], allowed: Collection[Difference] = ()) -> None:
    """Refuse to compare runs that differ in more than what is compared.

    Runs that do not say by which revision they were made count as of any. Data are the same if what they hold is,
    wherever they lie; where that was not recorded, if their names and limits are.

    Args:
        runs: what is to stand side by side.
        allowed: the differences that the user has asked for.

    Raises:
        UserError: runs differ in data, budget, progress or revision, which is not among ``allowed``.
    """
    if same_budget([passes(run.config) for run in runs]):
        allowed = (*allowed, "budget")
    ways = dict(_DIFFERENCES)
    if _contents_known(runs):
        ways["data"] = _content
    for name, describe in ways.items():
        found: dict[str, Run] = {}
        for run in runs:
            found.setdefault(describe(run), run)
        found.pop("", None)
        if len(found) > 1 and name not in allowed:
            (one, first), (other, second) = list(found.items())[:2]
            raise UserError(
                f"runs of different {name} are not compared: {first.folder} has {one}, and {second.folder} {other}; "
                f"--allow-different {name} compares them all the same"
            )


def _contents_known(runs: Sequence[Run]) -> bool:
    """Whether digests tell the data apart; who made an image counts only where clients are by that."""
    natural = {run.config.partition == "natural" for run in runs}
    return len(natural) == 1 and all(run.data_digest for run in runs)


def check_revisions(folders: Iterable[Path], allowed: Collection[Difference] = ()) -> None:
    """Refuse, before hours are spent, what ``check`` would refuse after them.

    Args:
        folders: the folders of the runs to come; some may exist.
        allowed: the differences that the user has asked for.

    Raises:
        UserError: a run in one of the folders was made by another revision than the one that runs now.
    """
    now = environment.revision()
    for folder in folders:
        before = environment.read(folder).get("revision", now)
        if before != now and "revision" not in allowed:
            raise UserError(
                f"{folder} was made by revision {before}, and this is {now}: choose another --output, or "
                "--allow-different revision"
            )
