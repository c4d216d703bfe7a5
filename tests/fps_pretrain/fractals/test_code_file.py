import io
import os
import pickle
import zipfile

import numpy as np
import pytest

from fps_pretrain.common.errors import UserError
from fps_pretrain.config.pretrain import PretrainConfig
from fps_pretrain.fractals.code_file import codes_digest, count_codes, read_codes, write_codes
from tests.fps_pretrain.pairs.test_gallery import codes_of_seed


def test_codes_survive_the_file(tmp_path):
    maps, sizes = codes_of_seed(3, 20)
    write_codes(tmp_path / "c.npz", maps, sizes)
    read, counts = read_codes(tmp_path / "c.npz")
    assert np.array_equal(read, maps)
    assert np.array_equal(counts, sizes)
    assert count_codes(tmp_path / "c.npz") == 20


class Bomb:
    def __reduce__(self):
        return (exec, ("raise SystemExit('unpickled')",))


def _archive(**arrays):
    return lambda path: np.savez(path, **arrays)


GOOD_MAPS, GOOD_SIZES = np.zeros((3, 4, 2, 3)), np.full(3, 2)
EXPANDING, ENDLESS = GOOD_MAPS.copy(), GOOD_MAPS.copy()
EXPANDING[1, 0, 0, 0] = 1.2
ENDLESS[2, 1, 0, 0] = np.nan


def _changed(change):
    """A file of codes whose bytes are changed."""

    def write(path):
        write_codes(path, *codes_of_seed(3, 20))
        content = bytearray(path.read_bytes())
        change(content)
        path.write_bytes(content)

    return write


def _encrypt(content):
    """Set the flag that says so, in the file's headers and in the directory at its end."""
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + offset] |= 1


def _flip(content):
    content[200] ^= 0xFF


def _absurd(path):
    """Arrays that say they are of 10**15 numbers."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("maps", "sizes"):
            header = io.BytesIO()
            shape = {"descr": "<f8", "fortran_order": False, "shape": (10**15, 4, 2, 3)}
            np.lib.format.write_array_header_1_0(header, shape)
            archive.writestr(f"{name}.npy", header.getvalue())


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda path: None, "there is no such file"),
        (lambda path: path.write_bytes(b""), "is not a file of codes"),
        (lambda path: path.write_text("codes"), "is not a file of codes"),
        (lambda path: path.write_bytes(pickle.dumps(Bomb())), "is not a file of codes"),
        (lambda path: path.mkdir(), "is not a file of codes"),
        (lambda path: os.mkfifo(path), "is not a file of codes"),
        (lambda path: path.symlink_to("/dev/zero"), "is not a file of codes"),
        (_changed(_encrypt), "is not a file of codes"),
        (_changed(_flip), "is not a file of codes"),
        (_absurd, "is not a file of codes"),
        (_archive(maps=np.array([Bomb()], object), sizes=GOOD_SIZES), "is not a file of codes"),
        (_archive(maps=GOOD_MAPS), "is not a file of codes"),
        (_archive(maps=GOOD_MAPS[:, :, 0], sizes=GOOD_SIZES), "is not a file of codes"),
        (_archive(maps=GOOD_MAPS, sizes=GOOD_SIZES[:2]), "is not a file of codes"),
        (_archive(maps=GOOD_MAPS.astype(str), sizes=GOOD_SIZES), "is not a file of codes"),
        (_archive(maps=GOOD_MAPS[:0], sizes=GOOD_SIZES[:0]), "is not a file of codes"),
        (_archive(maps=GOOD_MAPS, sizes=GOOD_SIZES + 3), "a code has 2 to 4 maps, this file says 5 to 5"),
        (_archive(maps=EXPANDING, sizes=GOOD_SIZES), "code 1 is no contraction"),
        (_archive(maps=ENDLESS, sizes=GOOD_SIZES), "code 2 holds a number that is not finite"),
    ],
)
def test_what_is_no_file_of_codes_is_refused(write, words, tmp_path):
    write(tmp_path / "c.npz")
    with pytest.raises(UserError, match=words):
        PretrainConfig(codes=tmp_path / "c.npz")


def test_more_classes_than_the_file_holds_are_refused(tmp_path):
    write_codes(tmp_path / "c.npz", GOOD_MAPS, GOOD_SIZES)
    with pytest.raises(UserError, match="holds 3 codes"):
        PretrainConfig(codes=tmp_path / "c.npz", classes=4)
    assert PretrainConfig(codes=tmp_path / "c.npz").recipe().num_classes == 3


def test_maps_beyond_a_codes_number_of_maps_are_ignored(tmp_path):
    maps = GOOD_MAPS.copy()
    maps[0, 2:], maps[1, 3], maps[2, 1] = np.nan, 7.0, 0.5
    write_codes(tmp_path / "c.npz", maps, GOOD_SIZES)
    read, _ = read_codes(tmp_path / "c.npz")
    assert not read[:2].any()
    assert (read[2, 1] == 0.5).all()


def test_the_digest_is_of_maps_and_of_their_numbers():
    digests = [codes_digest(maps, sizes) for maps in (GOOD_MAPS, EXPANDING) for sizes in (GOOD_SIZES, GOOD_SIZES + 1)]
    assert len(set(digests)) == 4
