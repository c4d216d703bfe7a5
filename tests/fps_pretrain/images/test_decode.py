"""Decoding: the right pixels, and no memory for what only claims to be large."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest

from fps_pretrain.common.errors import UserError
from fps_pretrain.images import decode
from tests.fps_pretrain.images.encoded import encoded, grey, png_header


@pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM", "TIFF"])
def test_pixels_are_exact(kind: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    np.testing.assert_array_equal(decode.decode(encoded(image, kind), "x"), image)
    grey_image = image[:, :, 0]
    expected = np.repeat(grey_image[:, :, None], 3, axis=2)
    np.testing.assert_array_equal(decode.decode(encoded(grey_image, kind), "x"), expected)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_colours_keep_their_order(kind: str) -> None:
    decoded = decode.decode(encoded(np.full((16, 16, 3), (250, 120, 10), np.uint8), kind), "x")
    np.testing.assert_allclose(decoded, np.broadcast_to((250, 120, 10), (16, 16, 3)), atol=4)


def test_fit_resizes_the_short_side_and_crops_the_middle() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 40, 3), dtype=np.uint8)
    assert decode.fit(image[:, :20], 20) is not None
    np.testing.assert_array_equal(decode.fit(image[:, :20], 20), image[:, :20])
    smaller = cv2.resize(image, (10, 5), interpolation=cv2.INTER_AREA)  # by two, other interpolations average, too
    np.testing.assert_array_equal(decode.fit(image, 5), smaller[:, 2:7])
    larger = cv2.resize(image, (80, 40), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(decode.fit(image, 40), larger[:, 20:60])
    for side in range(1, 60):  # whatever the roundings of 32 / side x side
        for shape in ((side, side + 3, 3), (side + 3, side, 3)):
            assert decode.fit(np.zeros(shape, np.uint8), 32).shape == (32, 32, 3)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is not an image"),
        (b"not an image", "is not an image"),
        (grey()[:20], "is not an image"),
        (grey()[:40], "is not an image"),
        (encoded(np.zeros((9, 9, 3), np.uint8), "JPEG")[:50], "is not an image"),
        (png_header(100_000, 100_000), "100000 x 100000 pixels"),
        (png_header(8_193, 16_384), "8193 x 16384 pixels"),
        (png_header(8_192, 16_384), "is not an image"),
        (png_header(1, 60_000), "1 x 60000 pixels"),
        (png_header(257, 1), "257 x 1 pixels"),
        (png_header(256, 1), "is not an image"),
        (png_header(0, 5), "0 x 5 pixels"),
        (b"P6 20000 20000 255\n", "too large"),
        (b"P6 60000 1 255\n", "60000 x 1 pixels"),
    ],
)
def test_what_is_no_image_or_too_large_is_refused_before_it_costs_memory(content: bytes, words: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=f"^some file is .*{words}|^some file .*{words}") as refused:
            decode.decode(content, "some file")
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "PPM"])
@pytest.mark.parametrize("left", [0.5, 0.99, 0.999])
def test_nothing_is_printed_of_a_file_that_was_cut(kind: str, left: float, capfd: pytest.CaptureFixture[str]) -> None:
    content = encoded(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8), kind)
    with pytest.raises(UserError, match="is not an image"):
        decode.decode(content[: int(left * len(content))], "x")
    assert capfd.readouterr().err == ""


def test_the_first_unreadable_of_many_files_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(grey(7))
    (tmp_path / "b.png").write_bytes(b"torn")
    paths = [tmp_path / "a.png"] * 3
    images = decode.decode_files(paths, 4)
    assert images.shape == (3, 4, 4, 3)
    assert (images == 7).all()
    with pytest.raises(UserError, match=r"b\.png is not an image"):
        decode.decode_files([*paths, tmp_path / "b.png"], 4)
