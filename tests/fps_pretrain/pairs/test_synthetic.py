"""Pairs of dead leaves and of noise."""

import multiprocessing
import subprocess
import sys

import numpy as np
import pytest
import torch

from fps_pretrain.config.pretrain import SYNTHETIC
from fps_pretrain.models import checkpoint
from fps_pretrain.pairs.loader import EpochSteps, PairBatches, PairLoader
from fps_pretrain.pairs.synthetic import KINDS, SyntheticPairs, dead_leaves, noise
from tests.conftest import assert_refused


def test_every_kind_is_a_source_of_the_program():
    assert tuple(sorted(KINDS)) == tuple(sorted(SYNTHETIC))


@pytest.mark.parametrize("kind", SYNTHETIC)
def test_a_pair_depends_on_its_key_alone(kind):
    pairs = SyntheticPairs(kind, 16, seed=0)
    whole = pairs.batch(0, 0, 10).numpy()
    np.testing.assert_array_equal(SyntheticPairs(kind, 16, seed=0).batch(0, 4, 3), whole[:, 4:7])
    assert not np.array_equal(pairs.batch(1, 0, 10), whole)
    assert not np.array_equal(SyntheticPairs(kind, 16, seed=1).batch(0, 0, 10), whole)


@pytest.mark.parametrize("kind", SYNTHETIC)
def test_every_pair_has_an_image_of_its_own(kind):
    keys = ((seed, epoch, index) for seed in (0, 1) for epoch in (0, 1) for index in (0, 1))
    images = {SyntheticPairs(kind, 16, seed).image(epoch, index).tobytes() for seed, epoch, index in keys}
    assert len(images) == 8


@pytest.mark.skipif(sys.platform == "darwin", reason="a process cannot tell there who sent a signal")
def test_signals_to_every_process_leave_those_that_make_pairs_to_the_trainer():
    batches = PairBatches(SyntheticPairs("noise", 16, seed=0), 4, steps_per_epoch=12)
    loader = PairLoader(batches, EpochSteps(12), workers=2)
    before = multiprocessing.active_children()
    made = iter(loader)
    got = [next(made), next(made)]  # one of each worker, so that both have begun
    workers = [process for process in multiprocessing.active_children() if process not in before]
    assert len(workers) == 2
    for name in ("-TERM", "-INT"):
        subprocess.run(["kill", name, *(str(process.pid) for process in workers)], check=True)
    got += made
    for step, batch in enumerate(got):
        assert torch.equal(batch, batches[step])
    assert len(got) == 12


def test_dead_leaves_are_areas_of_one_colour_of_every_size():
    images = np.stack([dead_leaves(64, np.random.default_rng(i)) for i in range(20)]).astype(int)
    same = (images[:, :, 1:] == images[:, :, :-1]).all(-1)
    assert 0.6 < same.mean() < 0.95  # most neighbours lie in one leaf, and every line crosses edges
    areas = np.concatenate([np.unique(i.reshape(-1, 3), axis=0, return_counts=True)[1] for i in images])
    assert areas.max() > 500
    assert np.median(areas) < 100


def test_noise_has_the_spectrum_and_the_contrast_it_says():
    images = np.stack([noise(64, np.random.default_rng(i)) for i in range(200)]).astype(float)
    assert abs(images.mean() - 127.5) < 2
    assert 55 < images.std(axis=(1, 2)).mean() < 66  # a little is lost where values are clipped
    power = (np.abs(np.fft.rfft2(images.mean(-1))) ** 2).mean(0)
    assert power[0, 1] > 5 * power[0, 8] > 25 * power[0, 31]
    one = np.abs(np.diff(images, axis=1)).mean(axis=(1, 2, 3))
    assert one.max() > 5 * one.min()  # exponents, hence roughness, are of each image


def test_the_program_trains_on_noise_and_refuses_what_is_of_fractals(run_script, tmp_path, probe_data):
    command = ["run_pretrain.py", "--source", "noise", "--preset", "quick", "--epochs", 1, "--pairs-per-epoch", 16]
    command += ["--batch-size", 8, "--size", 16, "--arch", "resnet8", "--workers", 1, "--probe-data", probe_data]
    done = run_script(*command, "--run-dir", tmp_path / "run", "--output", tmp_path / "a.pt")
    assert done.returncode == 0, done.stderr
    assert checkpoint.read_file(tmp_path / "a.pt")["provenance"]["recipe"]["source"] == "noise"
    assert_refused(run_script(*command, "--objects", 2, 3), "--source noise")
    assert_refused(run_script(*command, "--source", "leaves"), "dead-leaves, noise or folder:PATH")
