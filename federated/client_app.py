"""Flower's ClientApp: what a node does with a message, on top of local training.

Clients get everything they need with a message (their run_config is empty in Flower's simulation): the weights, the
round, and the run's configuration as YAML. A client is the partition that its node is configured with.
"""

from __future__ import annotations

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from federated import algorithms, local, workspace
from federated.local import Hyper
from federated.records import from_record

client_app = ClientApp()


@client_app.query()
def query(message: Message, context: Context) -> Message:
    """Tell which partition this node holds: node ids are random, and runs must not depend on them."""
    answer = ConfigRecord({"partition-id": _partition_id(context)})
    return Message(RecordDict({"node": answer}), reply_to=message)


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """Train on this node's examples; replies with the weights, ``num-examples`` and the metrics of the training."""
    message_config = message.content.config_records["config"]
    space = workspace.find(message_config)
    server_round = int(str(message_config["server-round"]))
    client = _partition_id(context)
    update = algorithms.load(space.config.strategy).train_client(
        space.model,
        from_record(message.content.array_records["arrays"]),
        *space.examples_of(client),
        Hyper.of(space.config, server_round),
        (space.config.seed, server_round, client),
    )
    metrics = MetricRecord({"num-examples": update.num_examples, **update.metrics})
    return Message(RecordDict({"arrays": ArrayRecord(update.weights), "metrics": metrics}), reply_to=message)


@client_app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate the weights on this node's training examples."""
    space = workspace.find(message.content.config_records["config"])
    weights = from_record(message.content.array_records["arrays"])
    images, labels = space.examples_of(_partition_id(context))
    loss, accuracy = local.evaluate(space.model, weights, images, labels, space.config.eval_batch_size)
    metrics = MetricRecord({"num-examples": len(labels), "loss": loss, "accuracy": accuracy})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


def _partition_id(context: Context) -> int:
    return int(context.node_config["partition-id"])
