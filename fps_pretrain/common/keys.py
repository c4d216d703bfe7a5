"""Random seeds as functions of what they are for, never of what ran before.

A key such as ``(seed, "local", round, client)`` fixes a draw whatever the engine, the number of workers, the order in
which clients answer, or the round from which a run was resumed.
"""

from __future__ import annotations

import zlib

import numpy as np


def seed_of(seed: int, purpose: str, *key: int) -> int:
    """The 63-bit seed that belongs to a key.

    Args:
        seed: the run's seed.
        purpose: what the draw is for, so that two draws under the same numbers are independent.
        key: further non-negative integers, such as round and client.
    """
    entropy = [seed, zlib.crc32(purpose.encode()), *key]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)


def numpy_rng(seed: int, purpose: str, *key: int) -> np.random.Generator:
    """A NumPy generator that starts from ``seed_of`` the same key."""
    return np.random.default_rng(seed_of(seed, purpose, *key))


def secret_rng(secret: int, purpose: str, *key: int) -> np.random.Generator:
    """A NumPy generator that starts from all 128 bits of a secret, where ``numpy_rng`` keeps 63 of a key.

    Args:
        secret: what nobody may guess.
        purpose: as for ``seed_of``.
        key: as for ``seed_of``.
    """
    return np.random.default_rng([secret, zlib.crc32(purpose.encode()), *key])
