"""Keyed random numbers for compiled code: SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), with random access.

A key is a ``uint64``, a hash of what it is for, such as (seed, epoch, index). A number is a hash of a key and a slot.
Numbers can be drawn in any order, so that a loop and a batch of tensor operations draw the same. The chaos game takes
16 bits a step from ``choice_bits``.
"""

from __future__ import annotations

import numpy as np

from fps_pretrain.fractals.compiled import kernel

# The purpose of a key, the second argument of ``make_key``: no two parts of a run share numbers.
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
"""The chaos game chooses a map by an integer below this."""


@kernel(inline="always")
def _mix(z: np.uint64) -> np.uint64:
    """The finaliser of SplitMix64."""
    z = (z ^ (z >> _S30)) * _MIX_1
    z = (z ^ (z >> _S27)) * _MIX_2
    return z ^ (z >> _S31)


@kernel()
def key_prefix(seed: int, purpose: int, a: int) -> np.uint64:
    """The part of ``make_key(seed, purpose, a, b)`` that does not depend on ``b``."""
    z = _mix(np.uint64(seed) + _GAMMA)
    z = _mix(z ^ (np.uint64(purpose) * _GAMMA))
    return _mix(z + np.uint64(a) * _MIX_1 + _GAMMA)


@kernel()
def make_key(seed: int, purpose: int, a: int, b: int) -> np.uint64:
    """The key of ``(seed, purpose, a, b)``. Numbers of different keys are independent."""
    return _mix(key_prefix(seed, purpose, a) + np.uint64(b) * _MIX_2 + _GAMMA)


@kernel(inline="always")
def subkey(key: np.uint64, slot: int) -> np.uint64:
    """A new key, derived from slot ``slot`` of ``key``."""
    return _mix(np.uint64(key) + np.uint64(slot + 1) * _GAMMA)


@kernel(inline="always")
def uniform(key: np.uint64, slot: int) -> float:
    """Draw number ``slot`` of a key, uniform on [0, 1), with 53 random bits."""
    return np.float64(_mix(np.uint64(key) + np.uint64(slot + 1) * _GAMMA) >> _S11) * (1.0 / 9007199254740992.0)


@kernel(inline="always")
def uniform_in(key: np.uint64, slot: int, low: float, high: float) -> float:
    """Draw number ``slot`` of a key, uniform on [low, high)."""
    return low + (high - low) * uniform(key, slot)


@kernel(inline="always")
def integer(key: np.uint64, slot: int, n: int) -> int:
    """Draw number ``slot`` of a key as an integer, uniform on 0 .. n - 1."""
    return int(uniform(key, slot) * n)


@kernel(inline="always")
def chance(key: np.uint64, slot: int, probability: float) -> bool:
    """Draw number ``slot`` of a key: true with the given probability."""
    return uniform(key, slot) < probability


@kernel(inline="always")
def halves(key: np.uint64) -> tuple[np.uint32, np.uint32]:
    """The lower and the upper 32 bits of a key."""
    return np.uint32(np.uint64(key) & _LOW), np.uint32(np.uint64(key) >> _S32)


@kernel(inline="always")
def choice_bits(low: np.uint32, high: np.uint32, i: np.uint32) -> np.uint32:
    """32 random bits: a hash of the halves of a key and of ``i`` (Wellons 2018, "Prospecting for Hash Functions").

    It uses 32-bit operations, which vectorise. The lower 16 bits are for step ``2 i`` of a walk, the upper 16 for step
    ``2 i + 1``.
    """
    # NumPy's functions keep 32 bits, Python's operators widen to 64.
    h = np.add(np.multiply(i, _STEP_32), low)
    h = np.multiply(np.uint32(h ^ (h >> np.uint32(16))), _MIX_32_1)
    h = np.uint32(h ^ high)
    h = np.multiply(np.uint32(h ^ (h >> np.uint32(15))), _MIX_32_2)
    return np.uint32(h ^ (h >> np.uint32(15)))


@kernel()
def fill_bits(key: np.uint64, bits: np.ndarray) -> None:
    """Fill ``bits``, uint32, with ``choice_bits`` 0, 1 and so on of a key."""
    low, high = halves(key)
    for i in range(bits.size):
        bits[i] = choice_bits(low, high, np.uint32(i))
