"""Fractal pairs: iterated function systems, their images, and pairs of views composed of them.

Everything here is a function of a key. ``(seed, class)`` gives a code, ``(seed, epoch, index)`` gives a pair, on any
machine and with any number of workers. Nothing here knows about training.
"""
