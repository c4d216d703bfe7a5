"""Keyed random numbers for compiled code: SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), read at any place.

A key is a ``uint64``, the hash of what it stands for. Number ``slot`` of a key is drawn without drawing those before
it, so that the order of evaluation does not matter: one loop and a batch of tensor operations draw the same numbers.
The long runs of the chaos game take 16 bits a step from ``choice_bits``.
"""

from __future__ import annotations

import numpy as np

from fps_pretrain.fractals.compiled import kernel

CODE_STREAM = 1
PAIR_STREAM = 2
EPOCH_STREAM = 3
PROBE_STREAM = 4
IMAGE_STREAM = 5

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31, _S11, _S32 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11), np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)
_STEP_32 = np.uint32(0x9E3779B1)
_MIX_32_1 = np.uint32(0x21F0AAAD)
_MIX_32_2 = np.uint32(0x735A2D97)
CHOICE_RANGE = 65_536
"""Choices of the chaos game are integers below this."""


@kernel(inline="always")
def _mix(z: np.uint64) -> np.uint64:
    z = (z ^ (z >> _S30)) * _MIX_1
    z = (z ^ (z >> _S27)) * _MIX_2
    return z ^ (z >> _S31)


@kernel()
def key_prefix(seed: int, purpose: int, a: int) -> np.uint64:
    """What the keys of all ``(seed, purpose, a, b)`` have in common."""
    z = _mix(np.uint64(seed) + _GAMMA)
    z = _mix(z ^ (np.uint64(purpose) * _GAMMA))
    return _mix(z + np.uint64(a) * _MIX_1 + _GAMMA)


@kernel()
def make_key(seed: int, purpose: int, a: int, b: int) -> np.uint64:
    """The key of ``(seed, purpose, a, b)``; the numbers of different keys are independent."""
    return _mix(key_prefix(seed, purpose, a) + np.uint64(b) * _MIX_2 + _GAMMA)


@kernel(inline="always")
def subkey(key: np.uint64, slot: int) -> np.uint64:
    """A key of its own that ``slot`` of ``key`` stands for."""
    return _mix(np.uint64(key) + np.uint64(slot + 1) * _GAMMA)


@kernel(inline="always")
def uniform(key: np.uint64, slot: int) -> float:
    """Number ``slot`` of a key, in [0, 1), with 53 random bits."""
    return np.float64(_mix(np.uint64(key) + np.uint64(slot + 1) * _GAMMA) >> _S11) * (1.0 / 9007199254740992.0)


@kernel(inline="always")
def uniform_in(key: np.uint64, slot: int, low: float, high: float) -> float:
    """Number ``slot`` of a key, in [low, high)."""
    return low + (high - low) * uniform(key, slot)


@kernel(inline="always")
def integer(key: np.uint64, slot: int, n: int) -> int:
    """Number ``slot`` of a key as an integer in 0 .. n - 1."""
    return int(uniform(key, slot) * n)


@kernel(inline="always")
def chance(key: np.uint64, slot: int, probability: float) -> bool:
    """True with the given probability."""
    return uniform(key, slot) < probability


@kernel(inline="always")
def halves(key: np.uint64) -> tuple[np.uint32, np.uint32]:
    """The two halves of a key, the lower first."""
    return np.uint32(np.uint64(key) & _LOW), np.uint32(np.uint64(key) >> _S32)


@kernel(inline="always")
def choice_bits(low: np.uint32, high: np.uint32, i: np.uint32) -> np.uint32:
    """32 random bits, a hash of a key's halves and ``i`` (after Wellons 2018), in operations that vectorise.

    The low half is choice ``2 i`` of a walk, the high half choice ``2 i + 1``.
    """
    # NumPy's functions keep 32 bits where Python's operators would widen to 64.
    h = np.add(np.multiply(i, _STEP_32), low)
    h = np.multiply(np.uint32(h ^ (h >> np.uint32(16))), _MIX_32_1)
    h = np.uint32(h ^ high)
    h = np.multiply(np.uint32(h ^ (h >> np.uint32(15))), _MIX_32_2)
    return np.uint32(h ^ (h >> np.uint32(15)))


@kernel()
def fill_bits(key: np.uint64, bits: np.ndarray) -> None:
    """Fill ``bits``, uint32, with ``choice_bits`` 0, 1, ..."""
    low, high = halves(key)
    for i in range(bits.size):
        bits[i] = choice_bits(low, high, np.uint32(i))
