"""Workers that are Ray actors, on this machine or on all machines of a Ray cluster.

With ``--ray-address`` or the environment variable RAY_ADDRESS the run joins that cluster. Otherwise it starts Ray on
this machine, and ends it. No file system is shared. Training examples and partition are in Ray's object store, once a
machine, and so are the global weights, once a round. What clients remember stays in the server's run folder: a client's
state travels with its message and comes back with the reply.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from federated.client.state import ClientStates
from federated.client.workspace import Workspace
from federated.config.run import RunConfig
from federated.engines.pool import PoolGrid, Worker, WorkerDied
from federated.engines.ray_actor import ClientActor
from federated.messages import whole_number
from fps_pretrain.common.errors import UserError
from fps_pretrain.models.hardware import cores

log = logging.getLogger(__name__)

CONNECT_TIMEOUT = 10.0
"""Seconds to wait for a cluster's machine to answer."""


@contextlib.contextmanager
def ray_grid(config: RunConfig, space: Workspace, message_config: ConfigRecord) -> Iterator[RayGrid]:
    """Join a cluster or start Ray here, lend a grid of actors, and leave or end Ray.

    Args:
        config: the run.
        space: this process's workspace, whose data the actors get.
        message_config: what messages tell of the run.

    Raises:
        UserError: there is no such cluster, or it has too few CPUs or GPUs.
    """
    with _connected(config), RayGrid(config, space, message_config) as grid:
        yield grid


@contextlib.contextmanager
def _connected(config: RunConfig) -> Iterator[None]:
    import ray

    if ray.is_initialized():  # by whoever uses this as a library
        yield
        return
    # As Flower, Ray sends nothing anywhere.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = config.ray_address or os.environ.get("RAY_ADDRESS")
    if address:
        _check_reachable(address)
    threads = _threads(config)
    here = min(config.processes or cores() // threads, config.clients) * threads
    options: dict[str, Any] = {"address": address} if address else {"address": "local", "num_cpus": here}
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(**options, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        where = f"the cluster at {address}" if address else "Ray on this machine"
        raise UserError(f"--engine ray: {where} cannot be used: {error}") from error
    finally:
        # Ray ends the process on SIGTERM; our programs stop as on Ctrl-C.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)
    try:
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Refuse an address where nothing answers, for which Ray itself tries for minutes.

    Raises:
        UserError: nothing does.
    """
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isdecimal()):  # auto, say
        return
    try:
        socket.create_connection((host.rpartition("//")[2], int(port)), CONNECT_TIMEOUT).close()
    except OSError as error:
        raise UserError(f"--engine ray: no Ray cluster answers at {address}: {error}") from error


def _threads(config: RunConfig) -> int:
    return min(config.threads or 1, cores())


class ActorWorker(Worker):
    """An actor and the result it owes.

    Args:
        actor: its handle.
        send: starts the actor's work on a message; returns the reference of the result.
        save_state: keeps a client's state that came with the reply to a message.
    """

    def __init__(
        self, actor: Any, send: Callable[[Any, Message], Any], save_state: Callable[[Message, bytes], None]
    ) -> None:
        super().__init__()
        self.actor = actor
        self.result = actor.ready.remote()
        self._send = send
        self._save_state = save_state

    def send(self, message: Message) -> None:
        """Hand it a message."""
        self.result = self._send(self.actor, message)

    def receive(self) -> Message | None:
        """What it has sent."""
        import ray

        try:
            result = ray.get(self.result)
        except ray.exceptions.RayError as error:
            log.debug(str(error))
            raise WorkerDied(_in_a_line(error)) from error
        if result is None:
            return None
        reply, state = result
        if state is not None and self.message is not None:
            self._save_state(self.message, state)
        return reply

    def end(self) -> None:
        """Kill the actor."""
        import ray

        with contextlib.suppress(ray.exceptions.RayError):
            ray.kill(self.actor)


def _in_a_line(error: Exception) -> str:
    """Why an actor is gone; Ray's own text fills a page."""
    text = str(error).strip()
    if "its node has died" in text:
        return "its machine left the cluster"
    if type(error).__name__ == "ActorUnavailableError":  # Ray does not know yet whether the machine or the actor died
        return "its actor cannot be reached"
    if "creation task" in text:  # with the traceback of what was raised
        return f"its actor cannot start: {text.splitlines()[-1].strip()}"
    return f"its actor ended ({type(error).__name__})"


class RayGrid(PoolGrid):
    """A pool of Ray actors.

    Args:
        config: the run.
        space: this process's workspace, whose data the actors get.
        message_config: what messages tell of the run.

    Raises:
        UserError: the cluster has too few CPUs or GPUs.
    """

    def __init__(self, config: RunConfig, space: Workspace, message_config: ConfigRecord) -> None:
        import ray

        threads, device = _threads(config), space.device.type
        resources = ray.cluster_resources()
        available = int(resources.get("CPU", 0)) // threads
        workers = min(config.processes or available, config.clients)
        if workers > available or not workers:
            raise UserError(
                f"--workers {config.processes or 1} with {threads} CPUs each are more than the "
                f"{resources.get('CPU', 0):g} CPUs of the Ray cluster: take fewer"
            )
        self._options: dict[str, Any] = {"num_cpus": threads, "scheduling_strategy": "SPREAD"}
        if device == "cuda":
            self._options["num_gpus"] = _gpu_share(config, resources.get("GPU", 0), workers)
        empty = space.dataset.train.none()
        test = space.dataset.test if config.asks_clients else empty
        shown = dataclasses.replace(space.dataset, validation=empty, test=test)
        data, partition = ray.put(shown), ray.put(space.partition)
        self._arguments = (config.clients, message_config, data, partition, device)
        self._shared: dict[str, tuple[list[Array], Any]] = {}
        super().__init__(config.clients, workers, config.client_timeout)

    def _new_worker(self) -> ActorWorker:
        import ray

        actor = ray.remote(ClientActor).options(**self._options).remote(*self._arguments)
        return ActorWorker(actor, self._send, self._save_state)

    def _wait(self, workers: Sequence[Worker], seconds: float) -> list[Worker]:
        import ray

        actors = [worker for worker in workers if isinstance(worker, ActorWorker)]
        results = [worker.result for worker in actors]
        ray.wait(results, num_returns=1, timeout=seconds)
        arrived, _ = ray.wait(results, num_returns=len(results), timeout=0)
        return [worker for worker in actors if worker.result in arrived]

    def _send(self, actor: Any, message: Message) -> Any:
        """Have an actor work on a message; returns the reference of its result."""
        told, client = message.content.config_records["config"], self._client_of(message)
        state = _states(told).pack(client, whole_number(told, "state-round"))
        records = message.content.array_records
        without_arrays = copy.copy(message)
        without_arrays.content = RecordDict({n: r for n, r in message.content.items() if n not in records})
        references = [self._put(name, record) for name, record in records.items()]
        return actor.handle.remote(without_arrays, client, state, list(records), *references)

    def _put(self, name: str, record: ArrayRecord) -> Any:
        """A reference to a record; one that holds the same arrays as the last of that name is stored once."""
        import ray

        arrays = list(record.values())
        last, reference = self._shared.get(name, ([], None))
        if len(last) != len(arrays) or any(one is not other for one, other in zip(last, arrays, strict=True)):
            reference = ray.put(record)
            self._shared[name] = (arrays, reference)
        return reference

    def _save_state(self, message: Message, state: bytes) -> None:
        told, client = message.content.config_records["config"], self._client_of(message)
        states = _states(told)
        states.keep(client, whole_number(told, "state-round"))  # the actor could read it
        states.unpack(client, whole_number(told, "server-round"), state)

    def _client_of(self, message: Message) -> int:
        return int(self._contexts[message.metadata.dst_node_id].node_config["partition-id"])


def _states(told: ConfigRecord) -> ClientStates:
    return ClientStates(Path(str(told["client-states"])), str(told["run"]))


def _gpu_share(config: RunConfig, gpus: float, workers: int) -> float:
    """How much of a GPU an actor reserves: ``gpus_per_client``, or an equal share of all there are, one at most."""
    share = config.gpus_per_client
    if share is None:
        share = min(1.0, gpus / workers)
    if not gpus or share * workers > gpus + 1e-6:
        raise UserError(
            f"--workers {workers} with {share:g} GPUs each are more than the {gpus:g} of the Ray cluster: take fewer"
        )
    return share
