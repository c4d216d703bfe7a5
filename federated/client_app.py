"""Flower's ClientApp: what a node does with a message, on top of local training.

Clients get everything they need with a message (their run_config is empty in Flower's simulation): the weights, the
round, and the run's configuration as YAML. A client is the partition that its node is configured with.
"""

from __future__ import annotations

import hashlib
import traceback
from pathlib import Path

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from federated import algorithms
from federated.client import statistics as sums_of
from federated.client import workspace
from federated.client.batch_norm import buffers_of, with_own_statistics
from federated.client.evaluation import evaluate as evaluate_weights
from federated.client.failures import CLIENT_FAILED, Deadline, InjectedFailure, injected
from federated.client.state import ClientStates
from federated.client.training import Client, ClientHyperparameters, ClientUpdate
from federated.client.workspace import Workspace
from federated.config.run import identity
from federated.messages import from_record, to_record
from federated.node_state import NodeState, States

client_app = ClientApp()


@client_app.query()
def query(message: Message, context: Context) -> Message:
    """Tell which partition this node holds: node ids are random, and runs must not depend on them."""
    answer = ConfigRecord({"partition-id": _partition_id(context)})
    return Message(RecordDict({"node": answer}), reply_to=message)


@client_app.query("labels")
def count_labels(message: Message, context: Context) -> Message:
    """Tell how many training examples of each class this node has."""
    space = workspace.find(message.content.config_records["config"], context.node_config)
    counts = torch.bincount(space.examples_of(_partition_id(context))[1].cpu(), minlength=len(space.dataset.classes))
    return Message(RecordDict({"labels": ConfigRecord({"counts": counts.tolist()})}), reply_to=message)


@client_app.query("class_sums")
def class_sums(message: Message, context: Context) -> Message:
    """Sum the features of this node's training examples by class; see ``server.initialise.centroid_head``."""
    space = workspace.find(message.content.config_records["config"], context.node_config)
    weights = from_record(message.content.array_records["arrays"])
    images, labels = space.examples_of(_partition_id(context))
    sums, counts = sums_of.class_sums(
        space.model, weights, images, labels, len(space.dataset.classes), space.config.eval_batch_size
    )
    return Message(RecordDict({"arrays": to_record({"sums": sums, "counts": counts})}), reply_to=message)


@client_app.query("batch_norm_sums")
def sum_up_for_batch_norm(message: Message, context: Context) -> Message:
    """Add up what goes into each BatchNorm over this node's images; see ``initialise.pooled_statistics``."""
    space = workspace.find(message.content.config_records["config"], context.node_config)
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
        return Message(Error(CLIENT_FAILED, f"{traceback.format_exc()}{reason}"), reply_to=message)
    records: dict[str, ArrayRecord | MetricRecord] = {"arrays": to_record(update.weights)}
    records.update({name: to_record(extra) for name, extra in update.extra.items()})
    records["metrics"] = MetricRecord({"num-examples": update.num_examples, **update.metrics})
    return Message(RecordDict(dict(records)), reply_to=message)


def _train(message: Message, context: Context) -> ClientUpdate:
    message_config = message.content.config_records["config"]
    space = workspace.find(message_config, context.node_config)
    config, number = space.config, _partition_id(context)
    algorithm = algorithms.load(config)
    server_round = int(str(message_config["server-round"]))
    deadline = Deadline(config.client_timeout)
    failure = injected(config, server_round, number)
    if failure == "raise":
        raise InjectedFailure("told to fail")
    if failure == "slow":
        deadline.wait()
        deadline.check()
    received = {name: from_record(record) for name, record in message.content.array_records.items()}
    examples, targets = space.examples_of(number)
    states = _states(message_config, context, space)
    state = states.take(number, int(str(message_config["state-round"]))) if states else {}
    client = Client(
        model=space.model,
        examples=examples,
        targets=targets,
        hyper=ClientHyperparameters.of(config, server_round),
        key=(config.seed, server_round, number),
        options=algorithm.options,
        received={name: weights for name, weights in received.items() if name != "arrays"},
        state=state,
        check=deadline.check,
        problem=space.problem,
    )
    weights = with_own_statistics(received["arrays"], state)
    update = algorithm.train_client(client, weights)
    deadline.check()
    if failure == "nan":
        spoilt = {n: t * float("nan") if t.is_floating_point() else t for n, t in update.weights.items()}
        return update._replace(weights=spoilt)
    statistics = buffers_of(update.weights, space.parameters)
    if states:
        own = {"statistics": statistics} if config.bn_stats == "local" else {}
        states.save(number, server_round, {**update.state, **own})
    if config.bn_stats == "server":
        return update._replace(weights={n: t for n, t in update.weights.items() if n not in statistics})
    return update


@client_app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate the weights on this node's own test examples, or on its training examples if it has no others."""
    message_config = message.content.config_records["config"]
    space = workspace.find(message_config, context.node_config)
    number = _partition_id(context)
    weights = from_record(message.content.array_records["arrays"])
    if space.config.bn_stats == "local" and (states := _states(message_config, context, space)):
        weights = with_own_statistics(weights, states.load(number, int(str(message_config["state-round"]))))
    images, labels = space.held_out_of(number)
    loss, accuracy = evaluate_weights(space.model, weights, images, labels, space.config.eval_batch_size)
    metrics = MetricRecord({"num-examples": len(labels), "loss": loss, "accuracy": accuracy})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


def _states(message_config: ConfigRecord, context: Context, space: Workspace) -> States | None:
    """Where this client remembers things from round to round; None if it has nothing to remember.

    That is the folder the message names, which every client on the server's machine shares; a node on another machine
    may be configured with a ``state-dir`` of its own, where each run has a folder. Without one it is Flower's
    ``context.state``, in the node's memory.
    """
    if not (space.config.bn_stats == "local" or algorithms.load(space.config).options.keeps_state):
        return None
    if "state-dir" in context.node_config:
        run = hashlib.sha256(identity(space.config).encode()).hexdigest()[:16]
        return ClientStates(Path(str(context.node_config["state-dir"])) / run)
    if "client-states" in message_config:
        return ClientStates(Path(str(message_config["client-states"])))
    return NodeState(context.state)


def _partition_id(context: Context) -> int:
    return int(context.node_config["partition-id"])
