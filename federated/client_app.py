"""Flower's ClientApp: what a node does with a message, on top of local training.

Clients get everything they need with a message (their run_config is empty in Flower's simulation): the weights, the
round, and the run's configuration as YAML. A client is the partition that its node is configured with.
"""

from __future__ import annotations

import hashlib
import traceback
from contextlib import suppress
from pathlib import Path

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from federated import algorithms, open_workspace
from federated.client import statistics as sums_of
from federated.client.evaluation import at_client
from federated.client.failures import CLIENT_FAILED, DISK_FAILED, DIVERGED, Deadline, InjectedFailure, injected
from federated.client.fine_tuning import fine_tune
from federated.client.parts import keeps_own_part, own_part, with_own_part
from federated.client.state import ClientStates
from federated.client.training import (
    Client,
    ClientDiverged,
    ClientHyperparameters,
    ClientState,
    ClientUpdate,
    refuse_if_diverged,
)
from federated.client.workspace import Workspace
from federated.config.run import identity
from federated.messages import FIXED, from_record, to_record, whole_number
from federated.node_state import NodeState, States
from federated.weights import Weights
from fps_pretrain.common.errors import DISK_ERRORS

client_app = ClientApp()


@client_app.query()
def query(message: Message, context: Context) -> Message:
    """Tell which partition this node holds: node ids are random, and runs must not depend on them."""
    answer = ConfigRecord({"partition-id": _partition_id(context)})
    return Message(RecordDict({"node": answer}), reply_to=message)


@client_app.query("labels")
def count_labels(message: Message, context: Context) -> Message:
    """Tell how many training examples of each class this node has."""
    space = open_workspace.find(message.content.config_records["config"], context.node_config)
    counts = torch.bincount(space.examples_of(_partition_id(context))[1].cpu(), minlength=len(space.dataset.classes))
    return Message(RecordDict({"labels": ConfigRecord({"counts": counts.tolist()})}), reply_to=message)


@client_app.query("class_sums")
def class_sums(message: Message, context: Context) -> Message:
    """Sum the features of this node's training examples by class; see ``server.start.initialise.centroid_head``."""
    space = open_workspace.find(message.content.config_records["config"], context.node_config)
    weights = from_record(message.content.array_records["arrays"])
    images, labels = space.examples_of(_partition_id(context))
    sums, counts = sums_of.class_sums(
        space.model, weights, images, labels, len(space.dataset.classes), space.config.eval_batch_size
    )
    return Message(RecordDict({"arrays": to_record({"sums": sums, "counts": counts})}), reply_to=message)


@client_app.query("batch_norm_sums")
def sum_up_for_batch_norm(message: Message, context: Context) -> Message:
    """Add up what goes into each BatchNorm over its images for ``server.start.initialise.pooled_statistics``."""
    space = open_workspace.find(message.content.config_records["config"], context.node_config)
    weights = from_record(message.content.array_records["arrays"])
    number = _partition_id(context)
    images, _ = space.examples_of(number)
    sums = sums_of.batch_norm_sums(
        space.model, weights, images, space.config.eval_batch_size, (space.config.seed, number)
    )
    return Message(RecordDict({"arrays": to_record(sums)}), reply_to=message)


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """Train on this node's examples.

    Replies with the weights, ``num-examples``, the metrics of the training and what else the algorithm sends; or, where
    the training fails, with an error whose last line is the same on every engine.
    """
    try:
        update = _train(message, context)
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return Message(Error(_code_of(error), f"{traceback.format_exc()}{reason}"), reply_to=message)
    records: dict[str, ArrayRecord | MetricRecord] = {"arrays": to_record(update.weights)}
    records.update({name: to_record(extra) for name, extra in update.extra.items()})
    records["metrics"] = MetricRecord({"num-examples": update.num_examples, **update.metrics})
    return Message(RecordDict(dict(records)), reply_to=message)


def _code_of(error: Exception) -> int:
    if isinstance(error, ClientDiverged):
        return DIVERGED
    return DISK_FAILED if isinstance(error, OSError) and error.errno in DISK_ERRORS else CLIENT_FAILED


def _train(message: Message, context: Context) -> ClientUpdate:
    message_config = message.content.config_records["config"]
    space = open_workspace.find(message_config, context.node_config)
    config, number = space.config, _partition_id(context)
    algorithm = algorithms.load(config)
    server_round = whole_number(message_config, "server-round")
    deadline = Deadline(config.client_timeout)
    failure = injected(config, server_round, number)
    if failure == "raise":
        raise InjectedFailure("told to fail")
    if failure == "slow":
        deadline.wait()
        deadline.check()
    states = _states(message_config, context, space)
    state = states.take(number, whole_number(message_config, "state-round")) if states else {}
    task = space.task_of(number, _weights(message, context, state))
    others = (name for name in message.content.array_records if name not in ("arrays", FIXED))
    client = Client(
        model=task.model,
        examples=task.examples,
        targets=task.targets,
        hyper=ClientHyperparameters.of(config, server_round),
        key=(config.seed, server_round, number),
        options=algorithm.options,
        received={name: from_record(message.content.array_records[name]) for name in others},
        state=state,
        check=deadline.check,
        problem=task.problem,
        shared=space.parts.parameters,
        recorded=task.recorded,
    )
    update = algorithm.train_client(client, task.weights)
    deadline.check()
    if failure == "nan":
        spoilt = {n: t * float("nan") if t.is_floating_point() else t for n, t in update.weights.items()}
        return update._replace(weights=space.parts.shared(spoilt))
    if states:
        own = own_part(update.weights, space.parts, config)
        for kept in own.values():
            refuse_if_diverged(kept)  # the server sees what is shared alone
        states.save(number, server_round, {**update.state, **own})
    sent = space.parts.shared(update.weights)
    if not config.sends_buffers:
        sent = {name: tensor for name, tensor in sent.items() if name in space.parts.parameters}
    return update._replace(weights=sent)


@client_app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate the weights on this client's held-out examples, and, if asked, again after fine-tuning a copy."""
    message_config = message.content.config_records["config"]
    space = open_workspace.find(message_config, context.node_config)
    number, config = _partition_id(context), space.config
    states = _states(message_config, context, space) if keeps_own_part(config) else None
    state = states.load(number, whole_number(message_config, "state-round")) if states else {}
    weights = _weights(message, context, state)
    loss, accuracy = at_client(space, number, weights)
    metrics = MetricRecord({"loss": loss, "accuracy": accuracy})
    if config.fine_tune_epochs:
        with suppress(ClientDiverged):
            tuned = fine_tune(space, number, weights, whole_number(message_config, "evaluated-round"))
            metrics["fine-tuned-accuracy"] = at_client(space, number, tuned, own_encoder=config.train != "head")[1]
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


def _weights(message: Message, context: Context, state: ClientState) -> Weights:
    """The model that a message and a client's memory make up: what is shared, what is fixed, and what is its own.

    The fixed part comes with every message, or, where the message says so, once; the node then keeps it.

    Raises:
        LookupError: it came once, and the node has lost it.
    """
    records, config = message.content.array_records, message.content.config_records["config"]
    fixed = records.get(FIXED)
    if "fixed-once" in config:
        name = f"{FIXED}-{config['fixed-once']!s}"
        if fixed is not None:
            for known in [known for known in context.state if known.startswith(f"{FIXED}-")]:
                del context.state[known]
            context.state[name] = fixed
        elif name not in context.state:
            raise LookupError("the fixed part of the model is lost here; it comes again with the next message")
        fixed = context.state.array_records[name]
    weights = {**(from_record(fixed) if fixed is not None else {}), **from_record(records["arrays"])}
    return with_own_part(weights, state)


def _states(message_config: ConfigRecord, context: Context, space: Workspace) -> States | None:
    """Where this client remembers things from round to round; None if it has nothing to remember.

    That is the folder the message names, which every client on the server's machine shares; a node on another machine
    may be configured with a ``state-dir`` of its own, where each run has a folder. Without one it is Flower's
    ``context.state``, in the node's memory.
    """
    if not algorithms.clients_remember(space.config):
        return None
    if "state-dir" in context.node_config:
        run = hashlib.sha256(identity(space.config).encode()).hexdigest()[:16]
        return ClientStates(Path(str(context.node_config["state-dir"])) / run, str(message_config["run"]))
    if "client-states" in message_config:
        return ClientStates(Path(str(message_config["client-states"])), str(message_config["run"]))
    return NodeState(context.state)


def _partition_id(context: Context) -> int:
    return int(context.node_config["partition-id"])
