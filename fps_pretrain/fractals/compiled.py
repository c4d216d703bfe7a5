"""How compiled code is compiled: one decorator for all of it."""

from __future__ import annotations

from functools import partial

from numba import njit

compiled = partial(njit, cache=True, nogil=True)
"""For functions that allocate."""

kernel = partial(njit, cache=True, nogil=True, _nrt=False)
"""For functions that work in arrays given to them, and may not allocate: numba then counts no references.

Counting them, with an atomic operation for every slice in an inner loop, takes a sixth of the time of a pair.
"""
