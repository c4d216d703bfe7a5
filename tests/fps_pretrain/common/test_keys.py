"""Every part of a key counts, and nothing else does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from fps_pretrain.common.keys import numpy_rng, secret_rng, seed_of

KEYS = [
    (1, "local", 2, 3),
    (2, "local", 2, 3),
    (1, "other", 2, 3),
    (1, "local", 3, 2),
    (1, "local", 2, 4),
    (1, "local"),
]


@pytest.mark.parametrize("rng", [numpy_rng, secret_rng])
def test_each_key_has_draws_of_its_own(rng: Callable[..., np.random.Generator]) -> None:
    drawn = [rng(*key).random() for key in KEYS]
    assert len(set(drawn)) == len(KEYS)
    np.random.seed(5)
    assert [rng(*key).random() for key in reversed(KEYS)] == drawn[::-1]


def test_seeds_are_what_torch_and_numpy_take() -> None:
    seeds = [seed_of(0, "local", number) for number in range(200)]
    assert len(set(seeds)) == 200
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**62


def test_every_bit_of_a_secret_counts() -> None:
    secrets = [2**127 + 1, *(2**127 + 1 + 2**bit for bit in (1, 31, 32, 63, 64, 100, 126))]
    assert len({secret_rng(secret, "noise", 1).random() for secret in secrets}) == len(secrets)
