"""Batches of augmented pairs, made by compiled code in threads and written into the batch directly."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from fps_pretrain.fractals.augment.scratch import ViewScratch, empty_view_scratch
from fps_pretrain.fractals.augment.view import augment
from fps_pretrain.fractals.codes import SEEDED_CODES, Codes
from fps_pretrain.fractals.compiled import kernel
from fps_pretrain.fractals.compose.choose import epoch_order
from fps_pretrain.fractals.compose.pairs import compose_pairs
from fps_pretrain.fractals.compose.scratch import Scratch, empty_scratch
from fps_pretrain.fractals.compose.slots import SLOT_AUGMENT, SLOT_VIEWS
from fps_pretrain.fractals.recipe import Recipe
from fps_pretrain.fractals.recipe_numbers import DEFAULT_VIEW_NUMBERS, ViewNumbers
from fps_pretrain.fractals.rng import subkey


@kernel(inline="always")
def augmentation_key(pair_key: np.uint64, view: int) -> np.uint64:
    """The key of the augmentation of view 0 or 1 of a pair."""
    return subkey(subkey(pair_key, SLOT_VIEWS + view), SLOT_AUGMENT)


def augment_pair(
    views: np.ndarray, key: np.uint64, size: int | None = None, numbers: ViewNumbers = DEFAULT_VIEW_NUMBERS
) -> np.ndarray:
    """Augment both views of one pair.

    Args:
        views: ``(2, H, W)``, uint32, packed colours.
        key: the pair's key.
        size: side of the augmented views in pixels; None for H.
        numbers: of the augmentation.

    Returns:
        ``(2, 3, size, size)``, float32, normalised.
    """
    size = size or views.shape[1]
    scratch = empty_view_scratch(views.shape[2], size)
    out = np.empty((2, 3, size, size), np.float32)
    for view in range(2):
        augment(views[view], numbers, np.uint64(augmentation_key(np.uint64(key), view)), scratch, out[view])
    return out


class _ThreadScratch(NamedTuple):
    """Scratch memory of one thread, kept between batches: allocating it takes longer than using it."""

    scratch: Scratch
    views: ViewScratch
    composed: np.ndarray


_of_thread = threading.local()


def _thread_scratch(recipe: Recipe) -> _ThreadScratch:
    """The scratch memory of this thread, made again when the recipe changes."""
    if getattr(_of_thread, "recipe", None) != recipe:
        scratch = empty_scratch(recipe)
        composed = np.empty((2, scratch.pairs, recipe.size, recipe.size), np.uint32)
        _of_thread.scratch = _ThreadScratch(scratch, empty_view_scratch(recipe.size, recipe.size), composed)
        _of_thread.recipe = recipe
    kept: _ThreadScratch = _of_thread.scratch
    return kept


@lru_cache(maxsize=1)
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """The threads of a process; a forked process needs its own, so its number is an argument."""
    return ThreadPoolExecutor(threads, "pairs")


@kernel()
def _fill(
    recipe: Recipe,
    codes: Codes,
    seed: int,
    epoch: int,
    first: int,
    out: np.ndarray,
    start: int,
    stop: int,
    scratch: Scratch,
    views: ViewScratch,
    composed: np.ndarray,
) -> None:
    """Compose and augment pairs ``first + start`` .. ``first + stop - 1`` into their places in ``out``."""
    order = epoch_order(seed, epoch, recipe.num_classes)
    for at in range(start, stop, scratch.pairs):
        count = min(scratch.pairs, stop - at)
        compose_pairs(recipe, codes, seed, epoch, order, first + at, count, scratch, composed)
        for pair in range(count):
            for view in range(2):
                key = augmentation_key(scratch.keys[pair], view)
                augment(composed[view, pair], recipe.augment, key, views, out[view, at + pair])


def _fill_part(
    recipe: Recipe, codes: Codes, seed: int, epoch: int, first: int, out: np.ndarray, start: int, stop: int
) -> None:
    """``_fill`` with the scratch memory of this thread."""
    _fill(recipe, codes, seed, epoch, first, out, start, stop, *_thread_scratch(recipe))


def fractal_batch(
    recipe: Recipe,
    seed: int,
    epoch: int,
    first: int,
    out: np.ndarray,
    *,
    codes: Codes = SEEDED_CODES,
    threads: int = 1,
) -> None:
    """Make consecutive augmented pairs of an epoch, in compiled code that releases the GIL.

    Args:
        recipe: what pairs look like.
        seed: the seed of codes and pairs.
        epoch: the epoch, from 0.
        first: index of the first pair.
        out: output ``(2, batch, 3, size, size)``, float32, normalised: first views, then second views.
        codes: codes of a file, or ``SEEDED_CODES``.
        threads: number of threads that share the work; it does not change the pairs.
    """
    count = out.shape[1]
    if threads == 1:
        _fill_part(recipe, codes, seed, epoch, first, out, 0, count)
        return
    # Two parts for each thread, since pairs of many objects take longer. A part is a multiple of the pairs that are
    # rendered together.
    group = _thread_scratch(recipe).scratch.pairs
    part = group * max(1, -(-count // (2 * threads * group)))
    pool = _pool(threads, os.getpid())
    for done in [
        pool.submit(_fill_part, recipe, codes, seed, epoch, first, out, start, min(start + part, count))
        for start in range(0, count, part)
    ]:
        done.result()
