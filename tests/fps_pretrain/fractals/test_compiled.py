"""The cache of machine code."""

from fps_pretrain.fractals import compiled


def test_a_change_of_any_compiled_source_makes_a_new_cache():
    """Every file that decorates a function or defines a constant for one is hashed; torch code is not."""
    folder = compiled._FRACTALS
    kernels = {path for path in folder.rglob("*.py") if "fractals.compiled import" in path.read_text()}
    assert len(kernels) > 10
    assert kernels <= set(compiled._SOURCES)
    assert {path.parent.name for path in compiled._SOURCES} == {"fractals", "compose", "augment", "images"}


def test_a_folder_alone_is_no_machine_code(tmp_path, monkeypatch):
    """Numba makes the folder when a function is decorated, before anything is compiled."""
    monkeypatch.setattr(compiled, "_CACHE", str(tmp_path))
    (tmp_path / "compose_123").mkdir()
    assert not compiled.is_cached()
    (tmp_path / "compose_123" / "texture.paint.nbi").touch()
    assert compiled.is_cached()
