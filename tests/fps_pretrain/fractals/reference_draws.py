"""The random numbers of the reference: those of the compiled code, or NumPy's."""

import numpy as np

from fps_pretrain.fractals import rng


class SharedDraws:
    """The numbers that the compiled code draws: by key and slot."""

    one_chain = False

    def __init__(self, key):
        self.key = np.uint64(key)

    def uniform(self, slot, low=0.0, high=1.0):
        return low + (high - low) * rng.uniform(self.key, slot)

    def child(self, slot):
        return SharedDraws(rng.subkey(self.key, slot))

    def choices(self, count):
        """Integers below 65,536."""
        bits = np.empty((count + 1) // 2, np.uint32)
        rng.fill_bits(self.key, bits)
        return np.stack([bits & 0xFFFF, bits >> 16], axis=1).ravel()[:count].astype(np.int64)


class FreshDraws:
    """NumPy's numbers, whatever they are for."""

    one_chain = True

    def __init__(self, generator):
        self.generator = generator

    def uniform(self, slot, low=0.0, high=1.0):
        return low + (high - low) * self.generator.random()

    def child(self, slot):
        return self

    def choices(self, count):
        return self.generator.integers(0, 65_536, count)


def integer(draws, slot, n):
    return int(draws.uniform(slot) * n)


def chance(draws, slot, probability):
    return draws.uniform(slot) < probability
