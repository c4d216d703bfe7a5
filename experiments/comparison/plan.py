"""What a comparison will do and how long it will take, before it begins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from experiments.comparison.running import done_rounds, is_finished, name_of
from federated.config.run import RunConfig
from fps_pretrain.common.wording import counted


def plan(runs: Sequence[RunConfig], jobs: int) -> Iterator[str]:
    """A line for each run, and one with the time that all take; nothing where all are finished.

    The time follows from some steps of local training and an evaluation, measured once, now, on this machine; runs
    side by side are taken to slow each other down no more than what else runs here does.

    Args:
        runs: the runs; of those that are begun only the rest counts.
        jobs: how many run at a time.
    """
    from federated.server.output.progress import duration

    if all(map(is_finished, runs)):  # neither data nor time are needed
        return
    left = {run.folder: 1 - done_rounds(run) / run.rounds for run in runs}
    seconds = _seconds(runs)
    width = max(len(name_of(run)) for run in runs)
    for run in runs:
        if left[run.folder] > 0:
            about = duration(seconds[run.folder] * left[run.folder])
            begun = f", {done_rounds(run)} done" if left[run.folder] < 1 else ""
            yield f"plan     {name_of(run):<{width}}  {counted(run.rounds, 'round')}{begun}, about {about}"
        else:
            yield f"plan     {name_of(run):<{width}}  finished"
    total = sum(seconds[run.folder] * left[run.folder] for run in runs) / min(jobs, len(runs))
    yield f"plan     {counted(len(runs), 'run')}, {jobs} at a time: about {duration(total)} in all"


def _seconds(runs: Sequence[RunConfig]) -> dict[object, float]:
    """Seconds that each run takes with one thread, by folder; runs differ in their steps, not in a step's time."""
    from federated.client.batch_norm import with_norm
    from federated.client.workspace import Workspace
    from federated.data import sets as data
    from federated.data.partition import make_partition
    from federated.server.start.estimate import seconds_of, work_of
    from federated.server.start.initialise import initial_classifier, initial_encoder
    from federated.weights import weights_of
    from fps_pretrain.models.hardware import cpu_threads

    first = runs[0]
    dataset = data.load(first)
    with cpu_threads(first.threads or 1):
        partition = make_partition(first, dataset.train.labels, dataset.train.user_ids)
        classifier = initial_classifier(first, initial_encoder(first)[0], len(dataset.classes))
        space = Workspace.build(first, dataset, partition)
        step, example = seconds_of(space, weights_of(with_norm(classifier, first.norm)))
    found: dict[object, float] = {}
    for run in runs:
        sizes = [len(part) for part in partition] if run.clients == first.clients else [len(dataset.train)]
        work = work_of(run, sizes, len(dataset.test) + len(dataset.validation))
        found[run.folder] = work.steps * step + work.evaluated * example
    return found
