"""BatchNorm over all processes on CPUs, where PyTorch's own SyncBatchNorm is for GPUs alone."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning.plugins.layer_sync import LayerSync
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class _MeanOverProcesses(torch.autograd.Function):
    """The mean of a tensor over all processes; so is its gradient, since all of them use the result."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        torch.distributed.all_reduce(total)
        return total / torch.distributed.get_world_size()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _MeanOverProcesses.forward(ctx, gradients[0])


def _mean_over_processes(value: Tensor) -> Tensor:
    return _MeanOverProcesses.apply(value)  # type: ignore[no-untyped-call,no-any-return]


class CpuSyncBatchNorm(_BatchNorm):
    """BatchNorm whose statistics in training are those of the inputs ``(N, C, ...)`` of all processes together.

    All processes must have equally many values.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions will do."""

    def forward(self, input: Tensor) -> Tensor:
        """The input, normalised over all dimensions but the second and over all processes."""
        if not self.training or not torch.distributed.is_initialized():
            return super().forward(input)
        x = input.float()
        axes = [d for d in range(x.dim()) if d != 1]
        shape = [1, -1] + [1] * (x.dim() - 2)
        mean = _mean_over_processes(x.mean(axes))
        centred = x - mean.view(shape)
        variance = _mean_over_processes(centred.square().mean(axes))
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            assert self.num_batches_tracked is not None
            assert self.momentum is not None
            count = x.numel() // x.shape[1] * torch.distributed.get_world_size()
            with torch.no_grad():
                self.num_batches_tracked += 1
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        out = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            out = out * self.weight.view(shape) + self.bias.view(shape)
        return out.to(input.dtype)


class CpuLayerSync(LayerSync):
    """Replaces every BatchNorm of a model by ``CpuSyncBatchNorm`` with the same tensors, for Lightning."""

    def apply(self, model: nn.Module) -> nn.Module:
        """The model, changed in place."""
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                module.__class__ = CpuSyncBatchNorm  # type: ignore[assignment]
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        """The model as it is: in evaluation mode the layers are ordinary ones."""
        return model
