"""Keyed random streams for compiled code: SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).

A stream is an array of one ``uint64``. Its start is a hash of a key, so that any pair can be drawn without drawing
those before it, and no stream is shared between threads or processes.
"""

from __future__ import annotations

import numpy as np
from numba import njit

CODE_STREAM = 1
PAIR_STREAM = 2
EPOCH_STREAM = 3
PROBE_STREAM = 4

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31, _S11 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11)


@njit(cache=True, nogil=True, inline="always")
def _mix(z: np.uint64) -> np.uint64:
    z = (z ^ (z >> _S30)) * _MIX_1
    z = (z ^ (z >> _S27)) * _MIX_2
    return z ^ (z >> _S31)


@njit(cache=True, nogil=True)
def stream(seed: int, purpose: int, a: int, b: int) -> np.ndarray:
    """The stream of the key ``(seed, purpose, a, b)``; different keys give independent streams."""
    z = _mix(np.uint64(seed) + _GAMMA)
    z = _mix(z ^ (np.uint64(purpose) * _GAMMA))
    z = _mix(z + np.uint64(a) * _MIX_1 + _GAMMA)
    z = _mix(z + np.uint64(b) * _MIX_2 + _GAMMA)
    state = np.empty(1, np.uint64)
    state[0] = z
    return state


@njit(cache=True, nogil=True, inline="always")
def uniform(state: np.ndarray) -> float:
    """The stream's next number in [0, 1), with 53 random bits."""
    state[0] += _GAMMA
    return np.float64(_mix(state[0]) >> _S11) * (1.0 / 9007199254740992.0)


@njit(cache=True, nogil=True, inline="always")
def uniform_in(state: np.ndarray, low: float, high: float) -> float:
    """The next number in [low, high)."""
    return low + (high - low) * uniform(state)


@njit(cache=True, nogil=True, inline="always")
def integer(state: np.ndarray, n: int) -> int:
    """The next integer in 0 .. n - 1."""
    return int(uniform(state) * n)


@njit(cache=True, nogil=True, inline="always")
def chance(state: np.ndarray, probability: float) -> bool:
    """True with the given probability."""
    return uniform(state) < probability
