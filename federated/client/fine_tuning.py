"""Fine-tuning of the global model by a client, to see how good a start it is for a model of the client's own."""

from __future__ import annotations

from dataclasses import replace

from federated.client.failures import Deadline
from federated.client.training import Client, ClientHyperparameters, local_sgd, refuse_if_diverged
from federated.client.workspace import Workspace
from federated.weights import Weights
from fps_pretrain.common.keys import seed_of


def fine_tune(space: Workspace, number: int, weights: Weights, server_round: int) -> Weights:
    """Train a copy of the weights on a client's own examples for ``--fine-tune-epochs``, by plain local SGD.

    What is trained, and how, is as in a round, with the learning rate of the first one.

    Args:
        space: has the examples.
        number: the client.
        weights: where it starts; left as they are.
        server_round: the round that the weights are of, which fixes the batches.

    Returns:
        The state dict of the copy.

    Raises:
        ClientDiverged: the loss or a weight became infinite or not a number.
        ClientTimeout: it took longer than ``--client-timeout``.
    """
    config = space.config
    task = space.task_of(number, weights)
    client = Client(
        model=task.model,
        examples=task.examples,
        targets=task.targets,
        hyper=replace(ClientHyperparameters.of(config, 1), local_epochs=config.fine_tune_epochs),
        key=(seed_of(config.seed, "fine-tune"), server_round, number),
        check=Deadline(config.client_timeout).check,
        problem=task.problem,
        recorded=task.recorded,
    )
    tuned = local_sgd(client, task.weights).weights
    refuse_if_diverged(tuned)
    return {**weights, **tuned}
