"""Who takes part in a round."""

from __future__ import annotations

from fps_pretrain.common.keys import numpy_rng


def sample_clients(seed: int, server_round: int, clients: int, count: int) -> list[int]:
    """The clients that train in a round, as a function of (seed, round): ``count`` of ``range(clients)``, in order.

    Drawn without replacement. Clients are known by their partitions, never by Flower's node ids, which are random.
    """
    chosen = numpy_rng(seed, "participants", server_round).choice(clients, count, replace=False)
    return sorted(int(client) for client in chosen)


def sample_each_client(seed: int, server_round: int, clients: int, probability: float) -> list[int]:
    """The clients that train in a round where each is drawn by itself, with the same probability (Poisson sampling).

    A function of (seed, round), in order. Their number varies, and may be 0.
    """
    drawn = numpy_rng(seed, "each participant", server_round).random(clients) < probability
    return [int(client) for client in drawn.nonzero()[0]]
