"""What an encoder is given of images."""

import numpy as np
import torch
from torch import Tensor, nn

from fps_pretrain.images import pixels


class Normalise(nn.Module):
    """A model that does nothing else."""

    def forward(self, images: Tensor) -> Tensor:
        return pixels.normalise(images)


def test_the_first_call_may_be_an_export() -> None:
    """Tensors that exist while a model is exported must not be kept for other calls."""
    pixels._statistics.cache_clear()
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8))
    exported = torch.export.export(Normalise(), (images,)).module()
    expected = (images.permute(0, 3, 1, 2).numpy() / 255 - np.reshape(pixels.IMAGENET_MEAN, (3, 1, 1))) / np.reshape(
        pixels.IMAGENET_STD, (3, 1, 1)
    )
    np.testing.assert_allclose(pixels.normalise(images).numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(exported(images).numpy(), expected, atol=1e-5)
