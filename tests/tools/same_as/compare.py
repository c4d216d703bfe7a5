"""What a run left behind, and the first difference between two of them."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

Outcome = dict[str, Any]
"""Tensors, arrays and plain values by name."""

CLOCK = ("seconds", "pairs_per_second", "data_wait")
"""Columns that are measured by a clock."""

ADDED = ("loss_shuffled", "embedding_rank", "feature_rank", "gradient_norm")
"""Columns that later revisions measure beside the others; they change nothing."""

PROVENANCE = ("method", "recipe", "pairs_seen", "seed", "probe", "digest")
"""What is compared of a checkpoint's provenance; the rest says where and with what it was made."""

DESCRIPTION = ("norm", "image_size", "round", "digest")
"""What model.pt says since later revisions of the run that made it, and the digest of its weights."""

BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
"""The last part of the names of BatchNorm's buffers."""


def read_outcome(folder: Path) -> Outcome:
    """All that can be compared in the folder of a job.

    Weights (``*.pt`` and, below, ``run/model.pt``), rows of metrics, the partition, and the pixels of pictures that are
    not plots.

    Raises:
        FileNotFoundError: there is nothing to compare.
    """
    outcome: Outcome = {}
    for path in sorted([*folder.glob("*.pt"), folder / "run" / "model.pt"]):
        if path.exists():
            outcome.update(_read_weights(path))
    rows = folder / "run" / "metrics.jsonl"
    if rows.exists():
        for number, line in enumerate(rows.read_text().splitlines()):
            outcome[f"row {number}"] = {k: v for k, v in json.loads(line).items() if k not in CLOCK and k not in ADDED}
    table = folder / "run" / "metrics.csv"
    if table.exists():
        with table.open(newline="") as file:
            for number, row in enumerate(csv.DictReader(file)):
                outcome[f"row {number}"] = {k: v for k, v in row.items() if k not in CLOCK and k not in ADDED}
    partition = folder / "run" / "partition.npz"
    if partition.exists():
        with np.load(partition) as archive:
            outcome.update({f"partition {name}": archive[name] for name in archive.files})
    for picture in sorted((folder / "pictures").glob("*.png")):
        outcome[f"picture {picture.name}"] = _pixels(picture)
    if not outcome:
        raise FileNotFoundError(f"nothing to compare in {folder}")
    return outcome


def _read_weights(path: Path) -> Outcome:
    content = torch.load(path, map_location="cpu", weights_only=True)
    outcome = {
        f"{path.name} {name}": value
        for name, value in content.items()
        if name not in ("state_dict", "provenance", *DESCRIPTION)
    }
    outcome.update({f"weights {name}": tensor for name, tensor in content["state_dict"].items()})
    provenance = content.get("provenance", {})
    outcome.update({f"provenance {name}": provenance[name] for name in PROVENANCE if name in provenance})
    return outcome


def _pixels(path: Path) -> np.ndarray:
    import cv2

    return np.asarray(cv2.imread(str(path), cv2.IMREAD_UNCHANGED))


def parameters_only(outcome: Outcome) -> Outcome:
    """Without BatchNorm's buffers, and without what an evaluation of a model with other buffers says after round 0."""
    kept: Outcome = {}
    for name, value in outcome.items():
        if name.startswith("weights ") and name.rsplit(".", 1)[-1] in BUFFERS:
            continue
        if name.startswith("row ") and name != "row 0":
            value = {k: v for k, v in value.items() if not k.startswith(("test_", "val_", "client_"))}
        kept[name] = value
    return kept


def without_probe(outcome: Outcome) -> Outcome:
    """Without what a probe measured."""
    return {
        name: {n: v for n, v in value.items() if "knn" not in n} if name.startswith("row") else value
        for name, value in outcome.items()
        if name != "provenance probe"
    }


def but_for_last_bits(outcome: Outcome) -> Outcome:
    """Of the weights, names, shapes, types and norms to three digits; of the rows, who took part and who failed."""
    kept: Outcome = {}
    for name, value in outcome.items():
        if name.startswith("row "):
            value = {key: value[key] for key in ("round", "participants", "failures") if key in value}
        elif isinstance(value, Tensor):
            value = f"{value.dtype} {tuple(value.shape)} {float(value.double().norm()):.3g}"
        kept[name] = value
    return kept


def examples_only(outcome: Outcome) -> Outcome:
    """Of a partition, how many clients and which examples there are; of the weights, names, shapes and types."""
    indices, ends = outcome["partition indices"], outcome["partition ends"]
    kept: Outcome = {"examples": np.sort(indices), "clients": len(ends), "row 0": outcome.get("row 0")}
    for name, value in outcome.items():
        if isinstance(value, Tensor):
            kept[name] = f"{value.dtype} {tuple(value.shape)}"
    return kept


def first_difference(old: Any, new: Any, name: str = "") -> str | None:
    """Where two values first differ in a bit, a type, a shape or a name, as text; None if they are the same.

    Args:
        old: a tensor, an array, a plain value, or mappings and lists of these.
        new: what it is compared with.
        name: what to call it.
    """
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        if missing := sorted(set(map(str, old)) - set(map(str, new))):
            return f"{name} missing: {', '.join(missing[:3])}".strip()
        if added := sorted(set(map(str, new)) - set(map(str, old))):
            return f"{name} added: {', '.join(added[:3])}".strip()
        pairs = [(f"{name} {key}".strip(), old[key], new[key]) for key in old]
        return next((found for key, a, b in pairs if (found := first_difference(a, b, key))), None)
    if isinstance(old, list | tuple) and isinstance(new, list | tuple):
        if len(old) != len(new):
            return f"{name}: {len(old)} values, now {len(new)}"
        both = enumerate(zip(old, new, strict=True))
        return next((found for i, (a, b) in both if (found := first_difference(a, b, f"{name}[{i}]"))), None)
    if type(old) is not type(new):
        return f"{name}: {type(old).__name__}, now {type(new).__name__}"
    if isinstance(old, Tensor):
        return _of_tensors(old, new, name)
    if isinstance(old, np.ndarray):
        return _of_arrays(old, new, name)
    return None if repr(old) == repr(new) else f"{name}: {old!r}, now {new!r}"


def _of_tensors(old: Tensor, new: Tensor, name: str) -> str | None:
    if (old.dtype, old.shape) != (new.dtype, new.shape):
        return f"{name}: {old.dtype} {tuple(old.shape)}, now {new.dtype} {tuple(new.shape)}"
    if not old.numel():
        return None
    flat = [tensor.detach().contiguous().reshape(-1) for tensor in (old, new)]
    bits = [tensor.view(torch.uint8).numpy().reshape(old.numel(), -1) for tensor in flat]
    return _of_bits(bits, [tensor.tolist() for tensor in flat], name)


def _of_arrays(old: np.ndarray, new: np.ndarray, name: str) -> str | None:
    if (old.dtype, old.shape) != (new.dtype, new.shape):
        return f"{name}: {old.dtype} {old.shape}, now {new.dtype} {new.shape}"
    if not old.size:
        return None
    bits = [np.frombuffer(array.tobytes(), np.uint8).reshape(array.size, -1) for array in (old, new)]
    return _of_bits(bits, [array.ravel().tolist() for array in (old, new)], name)


def _of_bits(bits: list[np.ndarray], values: list[list[Any]], name: str) -> str | None:
    """The first of the entries, a row of bytes each, that differ."""
    where = np.flatnonzero((bits[0] != bits[1]).any(axis=1))
    if not len(where):
        return None
    first = int(where[0])
    return f"{name}: {len(where)} of {len(bits[0])} entries, [{first}] {values[0][first]!r}, now {values[1][first]!r}"
