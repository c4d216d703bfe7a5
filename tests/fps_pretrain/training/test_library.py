"""The package in other people's code."""

import subprocess
import sys

import pytest
import torch
from torch.utils.data import DataLoader

import fps_pretrain
from fps_pretrain import FPSPairs, load_encoder
from fps_pretrain.common.errors import UserError
from fps_pretrain.config.pretrain import PretrainConfig
from fps_pretrain.pairs.loader import PairBatches
from fps_pretrain.pairs.sources import FractalSource
from tests.conftest import REPOSITORY


def test_importing_the_package_is_light():
    code = "import sys, fps_pretrain; print('torch' in sys.modules, fps_pretrain.__all__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == "False"
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = fps_pretrain.nothing_like_it


def test_pairs_are_those_of_training_in_order_whatever_the_workers():
    config = PretrainConfig(size=16, seed=2)
    training = PairBatches(FractalSource(config.recipe(), 2), batch_size=8, steps_per_epoch=3)
    expected = [training[step] for step in range(5)]
    for workers in (0, 2):
        pairs = FPSPairs(batch_size=8, size=16, seed=2, pairs=41, pairs_per_epoch=24)
        batches = list(DataLoader(pairs, batch_size=None, num_workers=workers))
        assert len(batches) == 5
        for (first, second), whole in zip(batches, expected, strict=True):
            assert torch.equal(first, whole[0])
            assert torch.equal(second, whole[1])
    later = next(iter(FPSPairs(batch_size=8, size=16, seed=2, first=32, pairs_per_epoch=24)))
    assert torch.equal(later[0], expected[4][0])
    threaded = next(iter(FPSPairs(batch_size=8, size=16, seed=2, pairs_per_epoch=24, threads=3)))
    assert torch.equal(threaded[1], expected[0][1])
    jittered = next(iter(FPSPairs(batch_size=8, size=16, seed=2, background="diamond-square")))
    assert not torch.equal(jittered[0], expected[0][0])


@pytest.mark.parametrize(
    "options", [{"batch_size": 0}, {"pairs": 3}, {"first": -1}, {"size": 8}, {"colour": "red"}, {"threads": 0}]
)
def test_bad_values_are_refused(options):
    with pytest.raises(UserError):
        FPSPairs(**({"batch_size": 8} | options))


def test_an_encoder_loads_in_one_line():
    encoder = load_encoder(REPOSITORY / "checkpoints" / "fps_r20.pt")
    assert not encoder.training
    assert encoder(torch.zeros(2, 3, 32, 32)).shape == (2, encoder.feature_dim) == (2, 64)
