import numpy as np
import pytest
import torch

from fps_pretrain.config.pretrain import PretrainConfig
from fps_pretrain.fractals.code_file import codes_digest, write_codes
from fps_pretrain.fractals.recipe import make_recipe
from fps_pretrain.models import hardware
from fps_pretrain.pairs import device
from fps_pretrain.pairs.data_module import PairData, make_source
from fps_pretrain.pairs.device import DeviceFractalSource
from fps_pretrain.pairs.folder import FolderPairs
from fps_pretrain.pairs.loader import EpochSteps, PairBatches
from fps_pretrain.pairs.sources import FractalSource
from fps_pretrain.pairs.synthetic import SyntheticPairs
from tests.fps_pretrain.images.encoded import grey
from tests.fps_pretrain.pairs.test_gallery import codes_of_seed

CPU = torch.device("cpu")


class Trainer:
    global_step, global_rank, world_size = 0, 0, 1


def loader_of(config, workers):
    pairs = PairData(config, make_source(config, CPU), workers)
    pairs.trainer = Trainer()
    return pairs.train_dataloader()


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batches_do_not_depend_on_the_number_of_workers(workers):
    config = PretrainConfig(batch_size=8, pairs_per_epoch=24, epochs=2, seed=3).resolve(has_gpu=False)
    loader = loader_of(config, workers)
    got = []
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        got += list(loader)
    reference = PairBatches(FractalSource(make_recipe(32), 3), 8, 3)
    assert len(got) == 6
    for step, batch in enumerate(got):
        assert torch.equal(batch, reference[step])


@pytest.mark.parametrize("renders", ["fresh", "shared"])
@pytest.mark.parametrize("threads", [2, 5, 16])
def test_batches_do_not_depend_on_the_number_of_threads(threads, renders):
    source = FractalSource(make_recipe(32, objects=(1, 3), renders=renders, num_classes=110), seed=1)
    assert torch.equal(source.batch(2, 100, 37, threads), source.batch(2, 100, 37))
    assert torch.equal(source.batch(2, 110, 5, threads), source.batch(2, 100, 37)[:, 10:15])


def test_a_resumed_epoch_leaves_out_what_was_done():
    sampler = EpochSteps(10, first_step=13)
    assert list(sampler) == list(range(13, 20))
    sampler.set_epoch(1)
    assert list(sampler) == list(range(13, 20))
    sampler.set_epoch(2)
    assert list(sampler) == list(range(20, 30))


def test_a_trainer_that_stops_early_leaves_no_thread_behind():
    import threading

    config = PretrainConfig(batch_size=8, pairs_per_epoch=80, epochs=2).resolve(has_gpu=False)
    FractalSource(make_recipe(32), 0).batch(0, 0, 64, threads=2)  # the threads that share batches stay
    before = set(threading.enumerate())
    batches = iter(loader_of(config, 2))
    next(batches)
    started = set(threading.enumerate()) - before
    assert started
    batches.close()
    assert not any(thread.is_alive() for thread in started)


def test_a_million_codes_cost_no_memory():
    import tracemalloc

    recipe = make_recipe(32, num_classes=1_000_000)
    source = FractalSource(recipe, seed=0)
    source.batch(0, 0, 8)
    tracemalloc.start()
    source.batch(0, 0, 64)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 2 * 64 * 3 * 32 * 32 * 4  # a few times the batch; the codes alone would be 192 MB


@pytest.mark.parametrize("renders", ["fresh", "shared"])
@pytest.mark.parametrize("block", [4, 16, 100])
def test_a_device_makes_the_same_pairs_in_blocks(block, renders):
    recipe = make_recipe(32, renders=renders)
    ours = DeviceFractalSource(recipe, seed=4, device=CPU, block=block)
    theirs = FractalSource(recipe, seed=4)
    for epoch, first, count in ((0, 0, 10), (0, 10, 10), (0, 20, 10), (2, 95, 6), (2, 3, 8)):
        batch = ours.batch(epoch, first, count)
        assert batch.shape == (2, count, 3, 32, 32)
        np.testing.assert_allclose(batch.numpy(), theirs.batch(epoch, first, count).numpy(), atol=1e-4)
    assert ours.making.seconds() > 0


def test_each_of_several_devices_makes_its_own_share_only(monkeypatch):
    made = []
    compose = device.compose
    monkeypatch.setattr(device, "compose", lambda *args: made.append(args[-1]) or compose(*args))
    whole = PairBatches(FractalSource(make_recipe(32), 0), 8, 100)
    for rank in range(2):
        made.clear()
        source = DeviceFractalSource(make_recipe(32), 0, device=CPU, block=16)
        share = PairBatches(source, 8, 100, rank, world_size=2)
        for step in (50, 51, 52, 53):
            mine = whole[step][:, 4 * rank : 4 * rank + 4]
            np.testing.assert_allclose(share[step].numpy(), mine.numpy(), atol=1e-4)
        assert len(made) == 1
        assert (made[0] % 8 // 4 == rank).all()


@pytest.mark.parametrize(("cores", "made_by"), [(2, DeviceFractalSource), (16, FractalSource)])
def test_a_gpu_makes_its_pairs_where_cores_are_few_or_where_asked_for(cores, made_by, monkeypatch):
    monkeypatch.setattr(hardware, "cores", lambda: cores)
    auto, forced, cpu = (PretrainConfig(render=r).resolve(has_gpu=False) for r in ("auto", "device", "cpu"))
    assert type(make_source(auto, CPU)) is FractalSource
    assert type(make_source(auto, torch.device("cuda", 0))) is made_by
    assert type(make_source(forced, CPU)) is DeviceFractalSource
    assert type(make_source(cpu, torch.device("cuda", 0))) is FractalSource


def test_the_loader_tells_how_long_it_was_waited_for():
    config = PretrainConfig(batch_size=64, pairs_per_epoch=640, epochs=1).resolve(has_gpu=False)
    loader = loader_of(config, 0)
    batches = iter(loader)
    next(batches)
    first = loader.waiting.seconds()
    assert first > 0
    next(batches)
    assert loader.waiting.seconds() > first


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({}, FractalSource),
        ({"render": "device"}, DeviceFractalSource),
        ({"source": "noise"}, SyntheticPairs),
        ({"source": "folder"}, FolderPairs),
    ],
)
def test_a_source_has_the_seed_the_numbers_and_the_codes_of_its_configuration(options, kind, tmp_path):
    numbers = {"recipe_numbers": ("augment.grey_probability=0.75",), "seed": 5, "size": 16}
    if "source" not in options:
        write_codes(tmp_path / "codes.npz", *codes_of_seed(7, 30))
        options = options | {"codes": tmp_path / "codes.npz"}
    elif options["source"] == "folder":
        (tmp_path / "a.png").write_bytes(grey())
        options = {"source": f"folder:{tmp_path}"}
    source = make_source(PretrainConfig(**options, **numbers), CPU)
    assert type(source) is kind
    assert (source.seed, source.size) == (5, 16)
    described = source.description()
    assert described["augment"]["grey_probability"] == 0.75
    digest = codes_digest(*codes_of_seed(7, 30)) if "codes" in options else None
    assert described.get("codes") == digest
