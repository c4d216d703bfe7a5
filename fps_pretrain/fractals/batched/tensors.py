"""The recipe as batched torch operations, for pairs that are made where they are used: on a GPU.

The random numbers are those of the compiled code, and so is every step of the arithmetic, so that the pair of a key is
the same picture here and there. (A point that falls on the border of two cells may fall into the other one where a
device rounds differently.) Nothing here waits for the device: how many objects each view shows is worked out on the
host as well, from the same keys.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from fps_pretrain.fractals.chaos_game import EXPLODED, LANES, LONGEST_CHAIN, REACH, TRUNK
from fps_pretrain.fractals.codes import JITTER_SLOTS, JITTER_TRIES, fill_code_table
from fps_pretrain.fractals.compose import (
    SLOT_BLUR,
    SLOT_CHOICE,
    SLOT_COLOUR,
    SLOT_COUNT,
    SLOT_IMAGE,
    SLOT_LEFT,
    SLOT_OBJECTS,
    SLOT_ORIENTATION,
    SLOT_OTHERS,
    SLOT_SHIFTS,
    SLOT_SIDE,
    SLOT_SIGMA,
    SLOT_TEXTURE,
    SLOT_TEXTURE_COLOUR,
    SLOT_TOP,
    SLOT_VIEWS,
    Codes,
    epoch_order,
)
from fps_pretrain.fractals.recipe import (
    COLOUR_JITTER,
    JITTER_BASIC,
    JITTER_FRACTALDB,
    JITTER_NONE,
    JITTER_SVD,
    MAX_MAPS,
    Recipe,
)
from fps_pretrain.fractals.render import HUE_WEIGHTS, SLOT_PATCH, SLOT_WALK
from fps_pretrain.fractals.rng import CHOICE_RANGE, IMAGE_STREAM, PAIR_STREAM, key_prefix

_POINTS_AT_ONCE = 2**26
"""Points of the chaos game held at the same time: about 3 GB."""
_STEPS_AT_ONCE = 64


def _signed(value: int) -> int:
    """The int64 of the same bits."""
    return value - 2**64 if value >= 2**63 else value


_GAMMA, _MIX_1, _MIX_2 = (_signed(v) for v in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
_STEP_32, _MIX_32_1, _MIX_32_2 = (v - 2**32 if v >= 2**31 else v for v in (0x9E3779B1, 0x21F0AAAD, 0x735A2D97))


def _mix(z: Tensor) -> Tensor:
    """SplitMix64's finaliser of int64 tensors; a shift to the right brings in zeros."""
    z = (z ^ ((z >> 30) & (2**34 - 1))) * _MIX_1
    z = (z ^ ((z >> 27) & (2**37 - 1))) * _MIX_2
    return z ^ ((z >> 31) & (2**33 - 1))


def make_keys(seed: int, purpose: int, a: int, b: Tensor) -> Tensor:
    """``rng.make_key`` for a tensor of ``b``, int64."""
    return _mix(b * _MIX_2 + _signed((int(key_prefix(seed, purpose, a)) + _GAMMA) % 2**64))


def subkeys(keys: Tensor, slot: int | Tensor) -> Tensor:
    """``rng.subkey`` of keys, int64."""
    step = (slot + 1) * _GAMMA
    return _mix(keys + (_signed(step % 2**64) if isinstance(step, int) else step))


def uniforms(keys: Tensor, slot: int | Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    """``rng.uniform_in`` of keys, float64."""
    bits = (subkeys(keys, slot) >> 11) & (2**53 - 1)
    return low + (high - low) * (bits.double() * (1.0 / 9007199254740992.0))


def integers(keys: Tensor, slot: int | Tensor, n: int | Tensor) -> Tensor:
    """``rng.integer`` of keys, int64."""
    return (uniforms(keys, slot) * n).long()


def random_bits(keys: Tensor, count: int) -> Tensor:
    """``rng.choice_bits`` 0 .. count - 1 of keys ``(M,)``: ``(M, count)``, int32, the same bits."""
    low, high = keys.to(torch.int32)[:, None], (keys >> 32).to(torch.int32)[:, None]
    h = torch.arange(count, dtype=torch.int32, device=keys.device) * _STEP_32 + low
    h = (h ^ ((h >> 16) & 0xFFFF)) * _MIX_32_1
    h = h ^ high
    h = (h ^ ((h >> 15) & 0x1FFFF)) * _MIX_32_2
    return h ^ ((h >> 15) & 0x1FFFF)


class CodeTable(NamedTuple):
    """The codes of all classes on a device.

    Attributes:
        maps: ``(classes, 4, 2, 3)``, float64.
        sizes: ``(classes,)``, int64.
    """

    maps: Tensor
    sizes: Tensor


def code_table(recipe: Recipe, codes: Codes, seed: int, device: torch.device) -> CodeTable:
    """All codes of a run, worked out by compiled code in about a second for a million classes."""
    maps, sizes = codes
    if not sizes.size:
        maps, sizes = np.empty((recipe.num_classes, MAX_MAPS, 2, 3)), np.empty(recipe.num_classes, np.int64)
        fill_code_table(recipe.codes, seed, 0, maps, sizes)
    return CodeTable(torch.from_numpy(maps).to(device), torch.from_numpy(sizes).to(device))


class Objects(NamedTuple):
    """What the views of a batch show, ``V`` views a pair and at most ``K`` objects a view.

    Attributes:
        classes: ``(B, K)``, int64.
        shown: ``(B, K)``, bool, whether there is such an object.
        view_keys: ``(V, B)``.
        keys: ``(V, B, K)``, the objects' keys.
        images: ``(V, B, K)``, their images' keys.
        shifts: ``(B, K)``, float64, hues of the classes.
    """

    classes: Tensor
    shown: Tensor
    view_keys: Tensor
    keys: Tensor
    images: Tensor
    shifts: Tensor


def choose_objects(recipe: Recipe, seed: int, epoch: int, index: Tensor) -> Objects:
    """``pairs.choose_classes`` and ``pairs.image_key`` for a tensor of pairs, int64."""
    offset, stride = epoch_order(seed, epoch, recipe.num_classes)
    keys = make_keys(seed, PAIR_STREAM, epoch, index)
    most = recipe.max_objects
    count = recipe.min_objects + integers(keys, SLOT_COUNT, most - recipe.min_objects + 1)
    if recipe.pool:
        choices = min(recipe.pool, recipe.num_classes)
        start = index // recipe.pool * recipe.pool
        own = (index - start) % recipe.num_classes
    else:
        choices = recipe.num_classes
        start = torch.zeros_like(index)
        own = (offset + (index % choices) * stride) % choices
    places = own[:, None]
    for k in range(1, most):
        pick = integers(keys, SLOT_OTHERS + k, choices - k)
        for taken in places.sort(dim=1).values.unbind(1):
            pick = pick + (pick >= taken)
        places = torch.cat([places, pick[:, None]], dim=1)
    classes = places
    if recipe.pool:
        classes = (offset + ((start[:, None] + places) % recipe.num_classes) * stride) % recipe.num_classes

    number = torch.arange(most, device=index.device)
    view = torch.arange(recipe.composed_views, device=index.device)
    view_keys = subkeys(keys, SLOT_VIEWS + view[:, None])
    own_keys = subkeys(view_keys[:, :, None], SLOT_OBJECTS + number)
    if recipe.pool:
        images = (1 + (recipe.pool - 1 - places) // recipe.num_classes).clamp(max=recipe.pool_images)
        owner = start[:, None] + places + integers(own_keys, SLOT_CHOICE, images) * recipe.num_classes
        image_keys = make_keys(seed, IMAGE_STREAM, epoch, owner)
    else:
        image_keys = subkeys(own_keys, SLOT_IMAGE)
    shifts = uniforms(keys[:, None], SLOT_SHIFTS + number, 0.0, recipe.image.hue_range)
    return Objects(classes, number < count[:, None], view_keys, own_keys, image_keys, shifts)


def _rotation_products(u: Tensor, s1: Tensor, s2: Tensor, v: Tensor) -> Tensor:
    """Rotation by u, scaling by s1 and s2, rotation by v: ``(..., 2, 2)``."""
    cu, su, cv, sv = u.cos(), u.sin(), v.cos(), v.sin()
    rows = [
        cu * s1 * cv - su * s2 * sv,
        -cu * s1 * sv - su * s2 * cv,
        su * s1 * cv + cu * s2 * sv,
        -su * s1 * sv + cu * s2 * cv,
    ]
    return torch.stack(rows, dim=-1).unflatten(-1, (2, 2))


def _singular_parts(linear: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """e, f, g, h of ``codes.singular_values`` for linear parts ``(..., 2, 2)``."""
    a, b, c, d = linear[..., 0, 0], linear[..., 0, 1], linear[..., 1, 0], linear[..., 1, 1]
    return (a + d) / 2.0, (a - d) / 2.0, (c + b) / 2.0, (c - b) / 2.0


def _vary(maps: Tensor, sizes: Tensor, recipe: Recipe, keys: Tensor, slot: int) -> Tensor:
    """``codes._vary`` for codes ``(N, 4, 2, 3)``."""
    mode, low, high = recipe.jitter, recipe.image.jitter_low, recipe.image.jitter_high
    number = torch.arange(MAX_MAPS, device=maps.device)
    if mode == JITTER_BASIC:
        factor = uniforms(keys, slot + 1, low, high)
        chosen = number == integers(keys, slot, sizes)[:, None]
        return maps * torch.where(chosen, factor[:, None], 1.0)[:, :, None, None]
    if mode == JITTER_FRACTALDB:
        choice = integers(keys, slot + 1, 4)
        weight = 0.8 + 0.1 * (choice + (choice > 1)).double()
        chosen = torch.arange(6, device=maps.device) == integers(keys, slot, 6)[:, None]
        return maps * torch.where(chosen, weight[:, None], 1.0).view(-1, 1, 2, 3)
    e, f, g, h = _singular_parts(maps[..., :2])
    q, r = (e * e + h * h).sqrt(), (f * f + g * g).sqrt()
    plus, minus = torch.atan2(h, e), torch.atan2(g, f)
    u, v = (plus + minus) / 2.0, (plus - minus) / 2.0
    draws = slot + 4 * number
    s1 = (q + r) * uniforms(keys[:, None], draws, low, high)
    s2 = (q - r) * uniforms(keys[:, None], draws + 1, low, high)
    if mode == JITTER_SVD:
        turn = torch.pi / 18.0
        u = u + uniforms(keys[:, None], draws + 2, -turn, turn)
        v = v + uniforms(keys[:, None], draws + 3, -turn, turn)
    return torch.cat([_rotation_products(u, s1, s2, v), maps[..., 2:]], dim=-1)


def jitter_codes(maps: Tensor, sizes: Tensor, recipe: Recipe, keys: Tensor) -> Tensor:
    """``codes.jitter_code`` for codes ``(N, 4, 2, 3)``, sizes and image keys ``(N,)``: the first try that contracts."""
    if recipe.jitter == JITTER_NONE:
        return maps
    used = torch.arange(MAX_MAPS, device=maps.device) < sizes[:, None]
    result, done = maps, torch.zeros_like(sizes, dtype=torch.bool)
    for attempt in range(JITTER_TRIES):
        varied = _vary(maps, sizes, recipe, keys, attempt * JITTER_SLOTS)
        e, f, g, h = _singular_parts(varied[..., :2])
        largest = (e * e + h * h).sqrt() + (f * f + g * g).sqrt()
        fits = ((largest <= 1.0) | ~used).all(dim=1)
        result = torch.where((fits & ~done)[:, None, None, None], varied, result)
        done = done | fits
    return result


def _choices(keys: Tensor, steps: int) -> Tensor:
    """Which of its numbers, 0 .. 65,535, each step of the walks of keys ``(M,)`` takes: ``(steps, M)``, int32."""
    bits = random_bits(keys, (steps + 1) // 2).T
    return torch.stack([bits & 0xFFFF, (bits >> 16) & 0xFFFF], dim=1).flatten(0, 1)[:steps]


def _steps(maps: Tensor, cuts: Tensor, choices: Tensor, start: Tensor) -> Tensor:
    """``walk.take_steps``.

    Args:
        maps: ``(N, 4, 6)``, float32.
        cuts: ``(N, 4)``, int32.
        choices: ``(steps, N x branches)``, int32.
        start: ``(2, N x branches)``, float32.

    Returns:
        The points after each step, ``(steps, 2, N x branches)``.
    """
    steps, walks = choices.shape
    branches = walks // len(maps)
    cut = cuts.repeat_interleave(branches, dim=0)
    table = maps.flatten(0, 1)
    base = MAX_MAPS * torch.arange(len(maps), device=maps.device).repeat_interleave(branches)
    points = torch.empty(steps, 2, walks, device=maps.device)
    left, right = torch.empty_like(start), torch.empty_like(start)
    before = start
    for first in range(0, steps, _STEPS_AT_ONCE):
        some = choices[first : first + _STEPS_AT_ONCE]
        chosen = (some[..., None] >= cut[:, : MAX_MAPS - 1]).sum(-1)
        numbers = table[base + chosen].unflatten(-1, (2, 3)).permute(0, 3, 2, 1)  # (steps, 3, 2, walks)
        for step, (from_x, from_y, shift) in enumerate(numbers.unbind(0), start=first):
            torch.mul(from_x, before[0], out=left)
            torch.mul(from_y, before[1], out=right)
            before = torch.add(left.add_(right), shift, out=points[step])
    return points


def take_walks(maps: Tensor, sizes: Tensor, points: int, keys: Tensor) -> Tensor:
    """The walks of codes ``(N, 4, 2, 3)`` as compiled code takes them: ``(points, 2, N)``, float32."""
    count = len(sizes)
    number = torch.arange(MAX_MAPS, device=maps.device)
    last = (sizes - 1)[:, None]
    areas = (maps[..., 0, 0] * maps[..., 1, 1] - maps[..., 0, 1] * maps[..., 1, 0]).abs()
    areas = torch.where(number <= last, areas, 0.0)
    total = areas.cumsum(1)[:, -1:]
    shares = torch.where(total > 0.0, areas / total, 1.0 / sizes[:, None])
    cuts = torch.where(number < last, (shares.cumsum(1) * CHOICE_RANGE + 0.5).int(), CHOICE_RANGE)
    flat = maps.flatten(2).float()

    a, b, c, d = maps[:, 0, 0, 0], maps[:, 0, 0, 1], maps[:, 0, 1, 0], maps[:, 0, 1, 1]
    e, f = maps[:, 0, 0, 2], maps[:, 0, 1, 2]
    det = (1.0 - a) * (1.0 - d) - b * c
    fixed = torch.stack([((1.0 - d) * e + b * f) / det, (c * e + (1.0 - a) * f) / det])
    start = torch.where(det.abs() > 1e-9, fixed, 0.0).float()
    if points <= LONGEST_CHAIN:
        return _steps(flat, cuts, _choices(keys, points), start)
    trunk = _steps(flat, cuts, _choices(keys, TRUNK), start)
    lanes = subkeys(keys[:, None], torch.arange(LANES, device=keys.device)).flatten()
    forked = trunk[-LANES:].permute(1, 2, 0).flatten(1)  # (2, N x lanes)
    steps = -(-(points - TRUNK) // LANES)
    branches = _steps(flat, cuts, _choices(lanes, steps), forked)
    branches = branches.view(steps, 2, count, LANES).permute(0, 3, 1, 2).flatten(0, 1)
    return torch.cat([trunk, branches[: points - TRUNK]])


def count_hits(points: Tensor, side: int) -> Tensor:
    """``walk.count_hits`` of points ``(P, 2, N)``: ``(N, side + 2, side + 2)``, int32, with a border of empty cells."""
    stride = side + 2
    low, high = points.amin(0), points.amax(0)
    shown = ((low > -EXPLODED) & (high < EXPLODED) & (high - low >= 1e-6)).all(0)
    # A number over a tensor is the number times a reciprocal in torch, which rounds twice.
    scale = torch.full_like(low, (side - 1) * REACH) / (high - low)
    row, column = ((points - low) * scale).floor().unbind(1)
    cells = torch.where(shown, row * stride + column + (stride + 1), (side // 2 + 1) * (side + 3)).long()
    counts = torch.zeros(points.shape[2], stride * stride, dtype=torch.int32, device=points.device)
    counts.scatter_add_(1, cells.T, torch.ones((), dtype=torch.int32, device=points.device).expand_as(cells.T))
    return counts.view(-1, stride, stride)


def stamp(counts: Tensor, patches: Tensor) -> Tensor:
    """``render.stamp`` of hits ``(N, side + 2, side + 2)`` and patches ``(N,)``: levels ``(N, side, side)``, int32."""
    side = counts.shape[1] - 2
    sums = torch.zeros(len(counts), side, side, dtype=torch.int32, device=counts.device)
    for cell in range(9):
        dy, dx = cell // 3 - 1, cell % 3 - 1
        on = ((patches >> cell) & 1).int()[:, None, None]
        sums += on * counts[:, 1 - dy : 1 - dy + side, 1 - dx : 1 - dx + side]
    peak = sums.amax((1, 2), keepdim=True)
    levels = (sums.float() * 255.0 / peak.float()).int() + 1
    return torch.where(sums > 0, levels, 0)


def draw_patches(recipe: Recipe, keys: Tensor) -> Tensor:
    """``render.draw_patch`` of image keys ``(N,)``, int64."""
    cell = torch.arange(9, device=keys.device)
    on = uniforms(keys[:, None], SLOT_PATCH + cell) < recipe.image.cell_probability
    patches = (on.long() << cell).sum(1)
    return torch.where(patches > 0, patches, 1 << integers(keys, SLOT_PATCH + 9, 9))


def render(recipe: Recipe, table: CodeTable, classes: Tensor, keys: Tensor) -> Tensor:
    """``render.render`` of classes and image keys ``(N,)``: levels ``(N, render_side, render_side)``, int32."""
    parts = []
    at_once = max(1, _POINTS_AT_ONCE // recipe.points)
    for some_classes, some_keys in zip(classes.split(at_once), keys.split(at_once), strict=True):
        sizes = table.sizes[some_classes]
        maps = jitter_codes(table.maps[some_classes], sizes, recipe, some_keys)
        points = take_walks(maps, sizes, recipe.points, subkeys(some_keys, SLOT_WALK))
        patches = draw_patches(recipe, some_keys)
        parts.append(stamp(count_hits(points, recipe.render_side), patches))
    return torch.cat(parts)


def draw_colours(recipe: Recipe, keys: Tensor, slot: int) -> tuple[Tensor, Tensor, Tensor]:
    """``pairs.draw_colours``: hue shifts, saturations and values of keys, float64."""
    numbers = recipe.image
    return (
        uniforms(keys, slot, 0.0, numbers.hue_range),
        uniforms(keys, slot + 1, numbers.saturation_low, numbers.saturation_high),
        uniforms(keys, slot + 2, numbers.value_low, numbers.value_high),
    )


def colour(levels: Tensor, shift: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """``render.colour_table`` read at levels ``(N, ...)``: red, green and blue in bits 0, 21 and 42, int64.

    Args:
        levels: 0 for nothing, else 1 + grey.
        shift: ``(N,)``, float64, hue of grey 0.
        saturation: ``(N,)``, float64.
        value: ``(N,)``, float64.
    """
    shape = (-1,) + (1,) * (levels.dim() - 1)
    weights = torch.from_numpy(HUE_WEIGHTS[:, :256].copy()).to(levels.device)
    hue = (levels - 1 + shift.int().view(shape)) & 255
    s = ((saturation * 255.0).long() / 255.0).float().view(shape)
    v = (value * 255.0).long().float().view(shape)
    packed = torch.zeros_like(hue, dtype=torch.int64)
    for c in range(3):
        packed |= (v - v * s * weights[c][hue] + 0.5).long() << (21 * c)
    return torch.where(levels > 0, packed, 0)


def paste(
    images: Tensor, image: Tensor, sides: Tensor, tops: Tensor, lefts: Tensor, orientations: Tensor, size: int
) -> Tensor:
    """``pairs.paste`` of one object into each of ``M`` views: colours ``(M, size, size)``, 0 where it shows nothing.

    Args:
        images: ``(N, s, s)``, int64, colours 21 bits apart.
        image: ``(M,)``, which of them.
        sides: ``(M,)``, the objects' sides in the view, in pixels.
        tops: ``(M,)``, rows of their upper left corners.
        lefts: ``(M,)``, columns of the same.
        orientations: ``(M,)``, bits 0, 1, 2 transpose, flip vertically, flip horizontally.
        size: side of a view.

    Returns:
        int64, red, green and blue in bits 0, 8 and 16.
    """
    source = images.shape[1]
    scale = torch.tensor(float(source), device=images.device) / sides.float()
    pixel = torch.arange(size, device=images.device)

    def axis(corner: Tensor, flip: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        at = pixel - corner[:, None]
        inside = (at >= 0) & (at < sides[:, None])
        s = ((at.float() + 0.5) * scale[:, None] - 0.5).clamp(0.0, source - 1.0)
        near = s.long()
        weight = ((s - near.float()) * 8192.0 + 0.5).long()
        far = (near + 1).clamp(max=source - 1)
        flipped = flip[:, None] != 0
        return (
            inside,
            torch.where(flipped, source - 1 - near, near),
            torch.where(flipped, source - 1 - far, far),
            weight,
        )

    inside_y, near_y, far_y, weight_y = axis(tops, orientations & 2)
    inside_x, near_x, far_x, weight_x = axis(lefts, orientations & 4)
    transpose = (orientations & 1)[:, None]
    row_step, column_step = torch.where(transpose != 0, 1, source), torch.where(transpose != 0, source, 1)
    near_y, far_y = (near_y * row_step)[:, :, None], (far_y * row_step)[:, :, None]
    near_x, far_x = (near_x * column_step)[:, None, :], (far_x * column_step)[:, None, :]
    base = (image * (source * source))[:, None, None]
    colours = images.view(-1)
    wy, wx = weight_y[:, :, None], weight_x[:, None, :]
    wd = (wy * wx + 4096) >> 13
    wc, wb = wy - wd, wx - wd
    wa = 8192 - wx - wc
    total = wa * colours[base + near_y + near_x] + wb * colours[base + near_y + far_x]
    total += wc * colours[base + far_y + near_x] + wd * colours[base + far_y + far_x]
    total += 4096 | (4096 << 21) | (4096 << 42)
    packed = ((total >> 13) & 255) | ((total >> 26) & (255 << 8)) | ((total >> 39) & (255 << 16))
    return torch.where(inside_y[:, :, None] & inside_x[:, None, :], packed, 0)


def _blurred(views: Tensor, sigma: Tensor) -> Tensor:
    """``pairs.blur3`` of views ``(M, size, size)``, int64."""
    side = (-0.5 / (sigma * sigma)).exp()
    w0 = (1.0 / (1.0 + 2.0 * side)).float()[:, None, None]
    w1 = (side / (1.0 + 2.0 * side)).float()[:, None, None]
    size = views.shape[1]
    index = torch.arange(size, device=views.device)
    before, after = (index - 1).abs(), size - 1 - (size - 2 - index).abs()
    result = torch.zeros_like(views)
    for c in range(3):
        channel = ((views >> (8 * c)) & 255).float()
        rows = w0 * channel + w1 * (channel[:, :, before] + channel[:, :, after])
        result |= (w0 * rows + w1 * (rows[:, before] + rows[:, after]) + 0.5).long() << (8 * c)
    return result


def _neighbours(grid: Tensor, distance: int, rows: slice, columns: slice) -> tuple[Tensor, Tensor]:
    """For some points of ``grid (M, side, side)``: the sum of those above, below, left and right, and how many."""
    side, total, count = grid.shape[1], torch.zeros(()), torch.zeros(())
    padded, there = (pad(g, (distance,) * 4) for g in (grid, torch.ones_like(grid[:1])))
    for dy, dx in ((0, 1), (2, 1), (1, 0), (1, 2)):
        window = (slice(None), slice(dy * distance, dy * distance + side), slice(dx * distance, dx * distance + side))
        total = total + padded[window][:, rows, columns]
        count = count + there[window][:, rows, columns]
    return total, count


def _textures(size: int, keys: Tensor) -> Tensor:
    """``render.diamond_square`` for keys ``(M,)``: ``(M, size, size)``, float32 in [0, 1]."""
    extent = 1
    while extent + 1 < size:
        extent *= 2
    side = extent + 1
    bits = (random_bits(keys, side * side) >> 8) & 0xFFFFFF
    grid = (bits.float() * 2.0**-23 - 1.0).view(-1, side, side)
    step, amplitude = extent, 1.0
    while step > 1:
        half = step // 2
        corners = (grid[:, :-1:step, :-1:step] + grid[:, :-1:step, step::step]) + (
            grid[:, step::step, :-1:step] + grid[:, step::step, step::step]
        )
        grid[:, half::step, half::step] = corners * 0.25 + amplitude * grid[:, half::step, half::step]
        odd, even = slice(half, None, step), slice(0, None, step)
        for rows, columns in ((even, odd), (odd, even)):
            total, count = _neighbours(grid, half, rows, columns)
            grid[:, rows, columns] = total / count + amplitude * grid[:, rows, columns]
        step = half
        amplitude *= 0.5
    texture = grid[:, :size, :size]
    low, high = texture.amin((1, 2), keepdim=True), texture.amax((1, 2), keepdim=True)
    return (texture - low) / (high - low).clamp(min=1e-6)


def _pack(colours: Tensor) -> Tensor:
    """Colours 21 bits apart as red, green and blue in bits 0, 8 and 16."""
    return (colours & 255) | ((colours >> 13) & (255 << 8)) | ((colours >> 26) & (255 << 16))


def compose(recipe: Recipe, table: CodeTable, seed: int, epoch: int, index: Tensor) -> tuple[Tensor, Tensor]:
    """``pairs.compose_pairs`` for pairs of an epoch.

    Args:
        recipe: what pairs look like.
        table: the codes, on the device to work on.
        seed: of codes and pairs.
        epoch: the epoch, from 0.
        index: ``(B,)``, int64, which pairs, on the host.

    Returns:
        The views ``(2, B, size, size)``, int64, red, green and blue in bits 0, 8 and 16, and their keys ``(2, B)``.
    """
    device, size, count = table.maps.device, recipe.size, len(index)
    host = choose_objects(recipe, seed, epoch, index)
    index = index.to(device, non_blocking=True)
    objects = choose_objects(recipe, seed, epoch, index)
    views = recipe.composed_views
    # Only what is shown is rendered: the host knows which objects these are.
    shown = host.shown.expand(views, -1, -1).reshape(-1)
    wanted = shown.nonzero()[:, 0]
    slots = torch.zeros(shown.numel(), dtype=torch.int64)
    slots[wanted] = torch.arange(len(wanted))
    wanted, slots = wanted.to(device, non_blocking=True), slots.to(device, non_blocking=True)

    keys = objects.keys.reshape(-1)
    classes = objects.classes.expand(views, -1, -1).reshape(-1)
    levels = render(recipe, table, classes[wanted], objects.images.reshape(-1)[wanted])
    shifts, saturation, value = draw_colours(recipe, keys, SLOT_COLOUR)
    if recipe.colour == COLOUR_JITTER:
        shifts = objects.shifts.expand(views, -1, -1).reshape(-1)
    images = colour(levels, shifts[wanted], saturation[wanted], value[wanted])

    view_keys = objects.view_keys.reshape(-1)
    canvas = torch.zeros(views * count, size, size, dtype=torch.int64, device=device)
    if recipe.background:
        texture = _textures(size, subkeys(view_keys, SLOT_TEXTURE))
        canvas = _pack(colour(1 + (texture * 255.0).int(), *draw_colours(recipe, view_keys, SLOT_TEXTURE_COLOUR)))
    numbers = recipe.compose
    sides = (uniforms(keys, SLOT_SIDE, numbers.scale_low, numbers.scale_high) * size).long().clamp(min=1)
    overhangs = (sides.double() * numbers.overhang).long()
    places = size - sides + 2 * overhangs
    lefts, tops = integers(keys, SLOT_LEFT, places) - overhangs, integers(keys, SLOT_TOP, places) - overhangs
    turn = torch.arange(3, device=device)
    turns = uniforms(keys[:, None], SLOT_ORIENTATION + turn) < numbers.turn_probability
    orientations = (turns.long() << turn).sum(1)
    of_view = (views * count, recipe.max_objects)
    for k in range(recipe.max_objects):
        image, side, top, left, turn = (t.view(of_view)[:, k] for t in (slots, sides, tops, lefts, orientations))
        pasted = paste(images, image, side, top, left, turn, size)
        there = objects.shown[:, k].repeat(views)[:, None, None]
        canvas = torch.where(there & (pasted != 0), pasted, canvas)
    blurred = _blurred(canvas, uniforms(view_keys, SLOT_SIGMA, numbers.blur_low, numbers.blur_high))
    canvas = torch.where((uniforms(view_keys, SLOT_BLUR) < numbers.blur_probability)[:, None, None], blurred, canvas)
    composed = canvas.view(views, count, size, size).expand(2, -1, -1, -1)
    both = torch.arange(2, device=device)[:, None]
    return composed, subkeys(make_keys(seed, PAIR_STREAM, epoch, index), SLOT_VIEWS + both)
