"""The Gaussian blur of a view."""

from __future__ import annotations

import math

import numpy as np

from fps_pretrain.fractals.compiled import kernel


@kernel()
def blur5(out: np.ndarray, sigma: float, plane: np.ndarray) -> None:
    """Blur with a 5 x 5 Gaussian in place; borders are mirrored without repeating the edge.

    Both passes treat a whole channel as one flat array, which vectorises; the borders are then computed again.

    Args:
        out: ``(3, size, size)``, float32, size at least 4.
        sigma: of the Gaussian, in pixels.
        plane: scratch, ``(size^2,)``, float32.
    """
    near = math.exp(-0.5 / (sigma * sigma))
    far = math.exp(-2.0 / (sigma * sigma))
    total = 1.0 + 2.0 * (near + far)
    w0, w1, w2 = np.float32(1.0 / total), np.float32(near / total), np.float32(far / total)
    size = out.shape[1]
    inside = size * size - 4
    for c in range(3):
        flat = out[c].reshape(-1)
        left2, left1, here, right1, right2 = flat, flat[1:], flat[2:], flat[3:], flat[4:]
        inner = plane[2:]
        for i in range(inside):
            inner[i] = w0 * here[i] + w1 * (left1[i] + right1[i]) + w2 * (left2[i] + right2[i])
        for y in range(size):
            row, target = flat[y * size : (y + 1) * size], plane[y * size : (y + 1) * size]
            a, b, d, e = row[0], row[1], row[2], row[3]
            target[0] = w0 * a + w1 * (b + b) + w2 * (d + d)
            target[1] = w0 * b + w1 * (a + d) + w2 * (b + e)
            a, b, d, e = row[size - 1], row[size - 2], row[size - 3], row[size - 4]
            target[size - 1] = w0 * a + w1 * (b + b) + w2 * (d + d)
            target[size - 2] = w0 * b + w1 * (d + a) + w2 * (e + b)
        up2, up1, centre, down1, down2 = plane, plane[size:], plane[2 * size :], plane[3 * size :], plane[4 * size :]
        middle = flat[2 * size :]
        for i in range(size * (size - 4)):
            middle[i] = w0 * centre[i] + w1 * (up1[i] + down1[i]) + w2 * (up2[i] + down2[i])
        end = size * (size - 1)
        below_top, above_bottom, bottom = flat[size:], flat[end - size :], flat[end:]
        for x in range(size):
            a, b, d, e = up2[x], up1[x], centre[x], down1[x]
            flat[x] = w0 * a + w1 * (b + b) + w2 * (d + d)
            below_top[x] = w0 * b + w1 * (a + d) + w2 * (b + e)
        last, second, third, fourth = plane[end:], plane[end - size :], plane[end - 2 * size :], plane[end - 3 * size :]
        for x in range(size):
            a, b, d, e = last[x], second[x], third[x], fourth[x]
            bottom[x] = w0 * a + w1 * (b + b) + w2 * (d + d)
            above_bottom[x] = w0 * b + w1 * (d + a) + w2 * (e + b)
