"""What is verified of a run's files before it goes on: nothing is trained, removed or believed that does not fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from federated import algorithms
from federated.algorithms.base import ServerState, Setting, Weights
from federated.client.parts import Parts, keeps_own_part
from federated.client.state import ClientStates
from federated.config.run import RunConfig
from federated.data.partition import Partition
from federated.data.partition_file import digest_of
from federated.data.sets import Dataset
from federated.server.output.run_folder import RunFolder, State
from federated.server.privacy import CentralPrivacy
from federated.weights import weights_of
from fps_pretrain.common.errors import UserError
from fps_pretrain.models.checksum import why_misfit

ADVICE = "remove the run folder and start the run again"


def check_init(state: State, config: RunConfig, init_digest: str) -> None:
    """Refuse a run that began from another encoder than ``--init`` is now, of ``init_digest``.

    Raises:
        UserError: as said.
    """
    if state.init_digest != init_digest:
        raise UserError(
            f"{config.folder} began from other weights than {config.init} holds now: choose another --output"
        )


def check_data(state: State, config: RunConfig, data_digest: str) -> None:
    """Refuse a run that began on other data than ``--dataset`` holds now, of ``data_digest``.

    Raises:
        UserError: as said.
    """
    if state.data_digest != data_digest:
        raise UserError(f"{config.folder} began on other data than {config.dataset} holds now: choose another --output")


def check_counts(path: Path, state: State, config: RunConfig) -> None:
    """Refuse a state whose rounds are not those of the run.

    Args:
        path: its file, for the message.
        state: what the file holds, of any types.
        config: the run.

    Raises:
        UserError: as said.
    """
    rounds = state.client_rounds
    if type(state.round) is not int or not 0 <= state.round <= config.rounds:
        why = f"its round is {str(state.round)[:20]}, not one of 0 .. {config.rounds}"
    elif not isinstance(rounds, Tensor) or rounds.dtype != torch.int64 or rounds.shape != (config.clients,):
        why = f"it has no round for each of {config.clients} clients"
    elif not ((rounds >= 0) & (rounds <= state.round)).all():
        why = "its clients are at rounds that have not been"
    elif not isinstance(state.run, str):
        why = "it does not say which run it is of"
    else:
        return
    raise UserError(f"{path} is damaged: {why}; {ADVICE}")


def check_weights(path: Path, state: State, config: RunConfig, model: nn.Module) -> None:
    """Refuse a state whose tensors do not fit the run.

    Args:
        path: its file, for the message.
        state: what the file holds; one of round 0 has nothing that the server remembers yet.
        config: the run.
        model: a model of the run.

    Raises:
        UserError: as said.
    """
    weights, parameters = weights_of(model), Parts.of(model, config).parameters
    why = why_misfit(state.weights, weights)
    expected = _remembered(config, {n: t for n, t in weights.items() if n in parameters}) if state.round else {}
    if why is None:
        if not isinstance(state.server, Mapping) or set(state.server) != set(expected):
            why = f"it does not hold what the server remembers ({', '.join(expected) or 'nothing'})"
        else:
            found = (why_misfit(state.server[name], like) for name, like in expected.items())
            why = next(filter(None, found), None)
    if why:
        raise UserError(f"{path} is damaged: {why}; {ADVICE}")


def _remembered(config: RunConfig, params: Weights) -> ServerState:
    algorithm = algorithms.load(config)
    setting = Setting(algorithm.options, config.clients, config.participants, config.lr, server_round=1)
    privacy = CentralPrivacy.of(config, secret=0, run="").init() if config.dp != "none" else {}
    return {**algorithm.remembered(params, setting), **privacy}


def check_client_states(states: ClientStates, state: State, config: RunConfig) -> None:
    """Refuse to go on without what clients on this machine remember: the result would be another.

    Raises:
        UserError: a file is missing, damaged, or not what that client kept.
    """
    # After the last round those that are no part of clients' models are removed, before the run is finished.
    needed = keeps_own_part(config) if state.round == config.rounds else algorithms.clients_remember(config)
    if not needed:
        return
    for client, server_round in enumerate(state.client_rounds.tolist()):
        try:
            states.load(client, server_round)
        except UserError as error:
            raise UserError(f"{error}; {ADVICE}") from error


def check_partition(path: Path, partition: Partition, state: State, clients: int, examples: int) -> None:
    """Refuse a partition that is not the one the run began with.

    Raises:
        UserError: it is of another number of clients or examples, or spreads them otherwise.
    """
    held = sum(map(len, partition))
    if len(partition) != clients or held != examples:
        why = f"it spreads {held} examples over {len(partition)} clients, not {examples} over {clients}"
    elif digest_of(partition) != state.partition_digest:
        why = "it is not the partition that the run began with"
    else:
        return
    raise UserError(f"{path} is damaged: {why}; {ADVICE}")


def checked_partition(
    folder: RunFolder, state: State, config: RunConfig, dataset: Dataset, model: nn.Module, *, elsewhere: bool
) -> Partition:
    """The partition of a run that is resumed, once all of its files have been found to fit it.

    Args:
        folder: the run's.
        state: what it goes on from.
        config: the run.
        dataset: its data.
        model: a model of the run.
        elsewhere: whether clients are on other machines, with what they remember.

    Raises:
        UserError: a file is damaged, or of another run.
    """
    partition = folder.load_partition()
    examples = 0 if config.partition == "nodes" else len(dataset.train)
    check_partition(folder.partition_file, partition, state, config.clients, examples)
    check_weights(folder.state_file, state, config, model)
    if not elsewhere:
        check_client_states(ClientStates(folder.client_states, state.run), state, config)
    return partition
