"""Arrays in files, and files that would fill the memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fps_pretrain.common import arrays


def test_arrays_are_read_by_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.arange(3), b=np.ones(2))
    first, second = arrays.read_arrays(tmp_path / "a.npz", "b", "a")
    assert (first.tolist(), second.tolist()) == ([1, 1], [0, 1, 2])
    with pytest.raises(arrays.NoArrays):
        arrays.read_arrays(tmp_path / "a.npz", "c")


def test_what_unpacks_to_too_much_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "a.npz", a=np.zeros(10_000))
    assert (tmp_path / "a.npz").stat().st_size < 1_000
    monkeypatch.setattr(arrays, "MAX_BYTES", 80_128)  # with the header of 128 bytes
    assert not arrays.read_arrays(tmp_path / "a.npz", "a")[0].any()
    monkeypatch.setattr(arrays, "MAX_BYTES", 80_127)
    with pytest.raises(arrays.NoArrays, match="unpacks to more than 80,127 bytes"):
        arrays.read_arrays(tmp_path / "a.npz", "a")
