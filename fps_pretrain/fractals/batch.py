"""Batches of augmented pairs by compiled threads: composed, augmented and normalised straight into the batch."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fps_pretrain.fractals.code_file import read_codes
from fps_pretrain.fractals.compiled import kernel
from fps_pretrain.fractals.compose import (
    SEEDED_CODES,
    SLOT_AUGMENT,
    SLOT_VIEWS,
    Codes,
    Scratch,
    compose_pairs,
    empty_scratch,
    epoch_order,
)
from fps_pretrain.fractals.recipe import DEFAULT_VIEW_NUMBERS, Recipe, ViewNumbers
from fps_pretrain.fractals.rng import subkey
from fps_pretrain.fractals.views import ViewScratch, augment, empty_view_scratch


@kernel(inline="always")
def augmentation_key(pair_key: np.uint64, view: int) -> np.uint64:
    """The key by which a view of a pair is augmented."""
    return subkey(subkey(pair_key, SLOT_VIEWS + view), SLOT_AUGMENT)


def augment_pair(
    views: np.ndarray, key: np.uint64, size: int | None = None, numbers: ViewNumbers = DEFAULT_VIEW_NUMBERS
) -> np.ndarray:
    """Both views of one pair augmented.

    Args:
        views: ``(2, H, W)``, uint32, packed colours.
        key: the pair's key.
        size: side of the results; None for H.
        numbers: how to augment; the paper's by default.

    Returns:
        ``(2, 3, size, size)``, float32, normalised.
    """
    size = size or views.shape[1]
    scratch = empty_view_scratch(views.shape[2], size)
    out = np.empty((2, 3, size, size), np.float32)
    for view in range(2):
        augment(views[view], numbers, np.uint64(augmentation_key(np.uint64(key), view)), scratch, out[view])
    return out


def load_codes(path: Path | None) -> Codes:
    """The codes of a file, or those of the seed where there is none.

    Raises:
        UserError: the file is not one of codes.
    """
    return Codes(*read_codes(path)) if path else SEEDED_CODES


class _Workplace(NamedTuple):
    """What a thread works in, kept between batches: memory asked for anew costs more than what is done in it."""

    scratch: Scratch
    views: ViewScratch
    composed: np.ndarray


_kept = threading.local()


def _workplace(recipe: Recipe) -> _Workplace:
    """This thread's workplace for a recipe."""
    if getattr(_kept, "recipe", None) != recipe:
        scratch = empty_scratch(recipe)
        composed = np.empty((2, scratch.pairs, recipe.size, recipe.size), np.uint32)
        _kept.recipe, _kept.workplace = (
            recipe,
            _Workplace(scratch, empty_view_scratch(recipe.size, recipe.size), composed),
        )
    workplace: _Workplace = _kept.workplace
    return workplace


@lru_cache(maxsize=1)
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Threads of this process; a forked one needs its own."""
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
    """Compose and augment pairs ``first + start`` .. ``first + stop - 1`` into their places in ``out``."""
    _fill(recipe, codes, seed, epoch, first, out, start, stop, *_workplace(recipe))


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
    """Compose and augment consecutive pairs of an epoch, in compiled code that holds no lock of Python's.

    Args:
        recipe: what pairs look like.
        seed: the seed of codes and pairs.
        epoch: the epoch, from 0.
        first: index of the first pair.
        out: output ``(2, batch, 3, size, size)``, float32, normalised: first views, then second views.
        codes: codes from a file instead of from the seed.
        threads: how many threads share the batch; the pairs are the same with any number.
    """
    count = out.shape[1]
    if threads == 1:
        _fill_part(recipe, codes, seed, epoch, first, out, 0, count)
        return
    # Two parts a thread, for pairs of many objects take longer; whole groups of pairs that are rendered together.
    group = _workplace(recipe).scratch.pairs
    part = group * max(1, -(-count // (2 * threads * group)))
    pool = _pool(threads, os.getpid())
    for done in [
        pool.submit(_fill_part, recipe, codes, seed, epoch, first, out, start, min(start + part, count))
        for start in range(0, count, part)
    ]:
        done.result()
