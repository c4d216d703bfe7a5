"""Fractal pairs: iterated function systems (codes), their images, and pairs of views composed of these.

From codes to batches: ``recipe`` (what pairs look like), ``codes`` and ``jitter``, ``chaos_game`` and ``render`` (grey
images), ``compose/`` (pairs), ``augment/`` (augmented views), ``batch``. ``batched/`` is the same recipe as torch
operations, for a GPU.

Everything is a function of a key: ``(seed, class)`` gives a code, ``(seed, epoch, index)`` a pair, on any machine and
with any number of workers. Nothing here knows about training.
"""
