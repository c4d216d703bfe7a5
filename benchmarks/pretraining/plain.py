"""The loop of lightly's examples, on images that torchvision augments."""

from __future__ import annotations

import copy

import numpy as np
import torch
from lightly.loss import NegativeCosineSimilarity, NTXentLoss
from lightly.models.modules.heads import MoCoProjectionHead, SimSiamPredictionHead, SimSiamProjectionHead
from lightly.models.utils import deactivate_requires_grad, update_momentum
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from benchmarks.pretraining.timing import WARM_UP, Setting, timed
from fps_pretrain.images.pixels import IMAGENET_MEAN, IMAGENET_STD
from fps_pretrain.models.encoders import build_encoder

METHODS = ("simsiam", "moco")
"""The methods that have a plain loop here."""


class AugmentedImages(Dataset[tuple[Tensor, Tensor]]):
    """Two views of each of some images ``(N, size, size, 3)``, uint8, augmented by torchvision as in the paper."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = images
        self.transform = v2.Compose(
            [
                v2.ToPILImage(),
                v2.RandomResizedCrop(images.shape[1], scale=(0.2, 1.0)),
                v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
                v2.RandomGrayscale(p=0.2),
                v2.RandomApply([v2.GaussianBlur(5, (0.1, 2.0))], p=0.5),
                v2.RandomHorizontalFlip(),
                v2.PILToTensor(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = self.images[index].transpose(2, 0, 1)
        tensor = torch.from_numpy(np.ascontiguousarray(image))
        return self.transform(tensor), self.transform(tensor)


def plain(setting: Setting, bf16: bool) -> float:
    """Pairs per second of lightly's example loop for SimSiam or MoCo v2 with a ResNet-20."""
    method, device = setting.method, setting.device
    torch.manual_seed(0)
    encoder = build_encoder("resnet20", seed=0)
    parts: dict[str, nn.Module] = {"encoder": encoder}
    if method == "simsiam":
        parts |= {"projector": SimSiamProjectionHead(64, 64, 512), "predictor": SimSiamPredictionHead(512, 128, 512)}
        similarity = NegativeCosineSimilarity()
    else:
        parts |= {"projector": MoCoProjectionHead(64, 64, 128)}
        keys = nn.ModuleDict({name: copy.deepcopy(part) for name, part in parts.items()}).to(device)
        deactivate_requires_grad(keys)
        contrast = NTXentLoss(temperature=0.2, memory_bank_size=(65_536, 128)).to(device)
    model = nn.ModuleDict(parts).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)

    def loss_of(first: Tensor, second: Tensor) -> Tensor:
        if method == "simsiam":
            z1, z2 = (model["projector"](model["encoder"](view)) for view in (first, second))
            p1, p2 = model["predictor"](z1), model["predictor"](z2)
            return 0.5 * (similarity(p1, z2.detach()) + similarity(p2, z1.detach()))
        update_momentum(model, keys, 0.999)
        queries = model["projector"](model["encoder"](first))
        with torch.no_grad():
            targets = keys["projector"](keys["encoder"](second))
        return contrast(queries, targets)

    def step(batch: tuple[Tensor, Tensor]) -> None:
        first, second = (view.to(device, non_blocking=True) for view in batch)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss = loss_of(first, second)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    shape = ((setting.steps + WARM_UP) * setting.batch, setting.size, setting.size, 3)
    images = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    loader = DataLoader(
        AugmentedImages(images), setting.batch, shuffle=True, drop_last=True, num_workers=setting.workers
    )
    return timed(iter(loader), step, setting.batch)
