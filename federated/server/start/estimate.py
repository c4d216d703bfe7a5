"""``--dry-run``: the configuration, the partition, and an estimate of the time and memory a run would take."""

from __future__ import annotations

import resource
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, replace

import torch

from federated import algorithms
from federated.client.batch_norm import with_norm
from federated.client.evaluation import evaluate
from federated.client.gradients import RECORD_AFTER
from federated.client.parts import size_of
from federated.client.training import Client, ClientHyperparameters, steps_in_a_round
from federated.client.workspace import Workspace
from federated.config.run import RunConfig, to_yaml, without_secrets
from federated.data import sets as data
from federated.data.partition import describe, make_partition
from federated.server.cohort import sample_clients
from federated.server.output.progress import duration
from federated.server.start.auto_options import compiled_if_possible, with_precision, with_workers
from federated.server.start.initialise import initial_classifier, initial_encoder
from federated.weights import weights_of
from fps_pretrain.common.files import check_output
from fps_pretrain.common.wording import counted
from fps_pretrain.models.hardware import cores, cpu_threads

PROBE_BATCHES = 4
"""Batches that are trained on twice: to warm up, and to be timed."""


COUNTED_ROUNDS = 1000
"""Rounds whose participants are drawn to count their steps; those after them take as many on average."""


@dataclass(frozen=True)
class Work:
    """The amount of work in a run.

    Attributes:
        steps: steps of SGD, summed over rounds and their participants, and over fine-tuning.
        evaluated: examples that are evaluated, or whose features are computed.
        replies: replies in a round.
    """

    steps: int
    evaluated: int
    replies: int


def work_of(config: RunConfig, sizes: list[int], evaluation_examples: int) -> Work:
    """Count a run's work.

    Args:
        config: the run.
        sizes: examples of each client.
        evaluation_examples: test and validation examples.
    """
    hyper = ClientHyperparameters.of(config, 1)
    batches = [steps_in_a_round(size, hyper) for size in sizes]
    counted = min(config.rounds, COUNTED_ROUNDS)
    if config.participants == config.clients:
        steps = config.rounds * sum(batches)
    else:
        steps = sum(
            batches[client]
            for server_round in range(1, counted + 1)
            for client in sample_clients(config.seed, server_round, config.clients, config.participants)
        )
        steps += round((config.rounds - counted) * steps / counted)
    evaluations = 1 + config.rounds // config.eval_every + (config.rounds % config.eval_every > 0)
    evaluated = evaluations * evaluation_examples
    if config.train == "head":  # features are computed once
        evaluated = evaluation_examples + sum(sizes)
    elif config.fine_tune_epochs:  # every client's model is another
        evaluated += _at_clients(config) * len(sizes) * evaluation_examples
    if config.fine_tune_epochs:
        steps += _at_clients(config) * sum(batches) // config.local_epochs * config.fine_tune_epochs
    return Work(steps, evaluated, config.participants)


def _at_clients(config: RunConfig) -> int:
    """How often the global model is evaluated at the clients."""
    every = config.per_client_every
    return 1 + config.rounds // every + (config.rounds % every > 0) if every else 1


def dry_run(config: RunConfig) -> str:
    """The resolved configuration (YAML), the partition, and an estimate of time and memory, as one text.

    Time is measured on this machine: some steps of the algorithm's local training, and an evaluation. With
    ``--partition nodes`` the server does not know how many examples clients have: the number of steps is left open, and
    steps are timed on test examples.

    Raises:
        UserError: the run could not be begun.
    """
    config = with_precision(compiled_if_possible(config), None)
    if config.threads:
        torch.set_num_threads(config.threads)
    check_output("--output", config.folder)
    encoder, report = initial_encoder(config)
    dataset = data.load(config)
    partition = make_partition(config, dataset.train.labels, dataset.train.user_ids)
    classifier = with_norm(initial_classifier(config, encoder, len(dataset.classes)), config.norm)
    config = with_workers(config, None, classifier, [len(part) for part in partition])
    space = Workspace.build(config, dataset, partition)
    weights = weights_of(classifier)
    work = work_of(config, [len(part) for part in partition], len(dataset.test) + len(dataset.validation))
    if config.partition == "nodes":
        spread = f"{counted(config.clients, 'client')}, with as many examples as the nodes say when the run begins"
    else:
        spread = describe(partition, dataset.train.labels, len(dataset.classes))
    lines = [
        to_yaml(without_secrets(config)).rstrip(),
        "",
        f"data       {len(dataset.train)} training, {len(dataset.validation)} validation, {len(dataset.test)} test "
        f"examples, {len(dataset.classes)} classes",
        f"partition  {config.partition_title}: {spread}",
        f"init       {report or 'random weights'}",
        f"time       {_time(space, weights, work)}",
        *_sizes(space, weights, work),
        f"folder     {config.folder}",
    ]
    if space.device.type == "cuda":
        lines.insert(-2, f"GPU        {torch.cuda.max_memory_allocated() / 1e9:.1f} GB")
    return "\n".join(lines)


def _side_by_side(config: RunConfig) -> int:
    """How many clients train at a time: no more than take part, nor than this machine has cores for, if it trains."""
    here = [] if config.ray_address else [cores() // (config.threads or 1)]
    return max(1, min(config.processes, config.participants, *here))


def _time(space: Workspace, weights: dict[str, torch.Tensor], work: Work) -> str:
    """What training and evaluation take, by a few steps that are timed."""
    config, workers = space.config, _side_by_side(space.config)
    with cpu_threads(1 if workers > 1 and config.threads is None else None):  # as in a worker
        step, example = seconds_of(space, weights)
    if config.partition == "nodes":
        amount = f"the nodes' training, {1e3 * step:.1f} ms a step here"
    else:
        seconds = work.steps * step / workers + work.evaluated * example
        side_by_side = f", {workers} clients at a time" if workers > 1 else ""
        amount = f"{duration(seconds)}: {work.steps:,} steps of {1e3 * step:.1f} ms{side_by_side}"
    return (
        f"{amount}, {work.evaluated:,} evaluated examples of {1e3 * example:.2f} ms, as measured now on {space.device}"
    )


def _sizes(space: Workspace, weights: dict[str, torch.Tensor], work: Work) -> list[str]:
    """Lines on the model, its messages and memory; the process has trained, so that its memory is that of a client."""
    config, parts = space.config, space.parts
    once = size_of(parts.fixed(weights))
    down, up = algorithms.load(config).message_sizes(
        parts.shared(weights), parts.parameters, buffers_back=config.sends_buffers
    )
    parameters = sum(weights[name].numel() for name in space.parameters)
    message = f"{down / 1e6:.1f} MB a message"
    if once:
        trained = sum(parameter.numel() for parameter in space.model.parameters() if parameter.requires_grad)
        message = f"{trained:,} of them trained, {down / 1e6:.3g} MB a message, {once / 1e6:.3g} MB sent once"
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    processes = 1 + (0 if config.ray_address else min(config.processes, config.clients))
    # Replies are added up as they arrive, in float64; only some algorithms need all of a round together.
    options = config.algorithm_options()
    all_held = options.robust or options.all_replies
    held = work.replies if all_held else min(2 + max(1, config.processes), work.replies)
    many = f"{processes} processes of" if processes > 1 else "a process of"
    peak = processes * resident + 2 * down + held * up
    traffic = config.rounds * work.replies * (down + up) + config.clients * once
    return [
        f"model      {parameters:,} parameters, {message}",
        f"memory     {peak / 1e9:.1f} GB: {many} {resident / 1e9:.1f} GB, and {held} replies",
        f"traffic    {traffic / 1e9:.2f} GB between server and clients",
    ]


GENTLE_LR = 1e-3
"""The highest learning rate of the steps that are timed."""


def seconds_of(space: Workspace, weights: dict[str, torch.Tensor]) -> tuple[float, float]:
    """Seconds of a training step, by the run's algorithm, and of evaluating an example."""
    config = space.config
    images, labels = space.train if len(space.train[1]) else space.split("test")
    count = min(len(labels), PROBE_BATCHES * config.batch_size)
    images, labels = images[:count], labels[:count]
    task = space.task("estimate", images, labels, weights)
    # What a server sends beside the model (SCAFFOLD's control variate) has the shapes of the shared parameters.
    beside = {name: torch.zeros_like(weights[name]) for name in space.parts.parameters}
    algorithm = algorithms.load(config)
    client = Client(
        model=task.model,
        examples=task.examples,
        targets=task.targets,
        # The run's epochs may take days, and with its learning rate a step may diverge.
        hyper=replace(ClientHyperparameters.of(config, 1), local_epochs=1, lr=min(config.lr, GENTLE_LR)),
        key=(config.seed, 1, 0),
        options=algorithm.options,
        received=defaultdict(lambda: beside),
        problem=task.problem,
        shared=space.parts.parameters,
        recorded=task.recorded,
    )
    # The last of these is timed; on a GPU they go on until its steps have been recorded.
    for _ in range(2 + RECORD_AFTER // PROBE_BATCHES if task.recorded else 2):
        started = time.perf_counter()
        steps = algorithm.train_client(client, task.weights).steps
        step = (time.perf_counter() - started) / steps
    for _ in range(2):
        started = time.perf_counter()
        evaluate(space.model, weights, images, labels, config.eval_batch_size)
        example = (time.perf_counter() - started) / count
    return step, example
