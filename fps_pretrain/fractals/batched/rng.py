"""Keyed random numbers of tensors of keys: the same numbers as ``fractals.rng``. Keys are int64 with the same bits."""

from __future__ import annotations

import torch
from torch import Tensor

from fps_pretrain.fractals.rng import key_prefix


def _signed(value: int) -> int:
    """The int64 with the bits of a uint64."""
    return value - 2**64 if value >= 2**63 else value


_GAMMA, _MIX_1, _MIX_2 = (_signed(v) for v in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
_STEP_32, _MIX_32_1, _MIX_32_2 = (v - 2**32 if v >= 2**31 else v for v in (0x9E3779B1, 0x21F0AAAD, 0x735A2D97))


def _mix(z: Tensor) -> Tensor:
    """SplitMix64's finaliser. A shift of an int64 copies the sign bit; the masks clear these bits."""
    z = (z ^ ((z >> 30) & (2**34 - 1))) * _MIX_1
    z = (z ^ ((z >> 27) & (2**37 - 1))) * _MIX_2
    return z ^ ((z >> 31) & (2**33 - 1))


def make_keys(seed: int, purpose: int, a: int, b: Tensor) -> Tensor:
    """``rng.make_key`` for a tensor of ``b``, int64; shape as of ``b``."""
    return _mix(b * _MIX_2 + _signed((int(key_prefix(seed, purpose, a)) + _GAMMA) % 2**64))


def subkeys(keys: Tensor, slot: int | Tensor) -> Tensor:
    """``rng.subkey`` of keys, int64; keys and slots are broadcast."""
    step = (slot + 1) * _GAMMA
    return _mix(keys + (_signed(step % 2**64) if isinstance(step, int) else step))


def uniforms(keys: Tensor, slot: int | Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    """``rng.uniform_in`` of keys, float64; keys and slots are broadcast."""
    bits = (subkeys(keys, slot) >> 11) & (2**53 - 1)
    return low + (high - low) * (bits.double() * (1.0 / 9007199254740992.0))


def integers(keys: Tensor, slot: int | Tensor, n: int | Tensor) -> Tensor:
    """``rng.integer`` of keys, int64; keys and slots are broadcast."""
    return (uniforms(keys, slot) * n).long()


def random_bits(keys: Tensor, count: int) -> Tensor:
    """``rng.choice_bits`` for ``i`` = 0 .. count - 1 and keys ``(M,)``: ``(M, count)``, int32 with the same bits."""
    low, high = keys.to(torch.int32)[:, None], (keys >> 32).to(torch.int32)[:, None]
    h = torch.arange(count, dtype=torch.int32, device=keys.device) * _STEP_32 + low
    h = (h ^ ((h >> 16) & 0xFFFF)) * _MIX_32_1
    h = h ^ high
    h = (h ^ ((h >> 15) & 0x1FFFF)) * _MIX_32_2
    return h ^ ((h >> 15) & 0x1FFFF)
