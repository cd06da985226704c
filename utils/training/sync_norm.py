"""Batch norm over the images of all processes that train together, as if one had seen them all."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Function


class _Normalise(Function):
    """Batch norm over the images of all processes: two passes forward, three back, as torch's own on one process."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        kept = weight.new_zeros(2, x.shape[1])  # asks for sums of fp32 where x is bf16; nobody reads it
        mean, variance = (each.double() for each in torch.batch_norm_update_stats(x, kept[0], kept[1], 0.0))
        count = x.numel() // x.shape[1]
        sums = torch.cat([mean, variance + mean.square(), mean.new_ones(1)]) * count
        dist.all_reduce(sums)
        width, total = len(mean), sums[-1]
        whole = sums[:width] / total
        variance = (sums[width:-1] / total - whole.square()).clamp_min(0).float()
        mean = whole.float()
        y = torch.native_batch_norm(x, weight, bias, mean, variance, False, 0.0, eps)[0]
        ctx.save_for_backward(x, weight, mean, variance, total)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance, total)
        return y, mean, variance, total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """With g the gradient of y and z = (x - mean) / deviation: weight / deviation * (g - mean(g) - z mean(g z))."""
        x, weight, mean, variance, total = ctx.saved_tensors
        inverse = torch.rsqrt(variance + ctx.eps)
        g = gradients[0].contiguous(memory_format=torch.channels_last)
        of = torch.ops.aten.native_batch_norm_backward
        _, of_weight, of_bias = of(g, x, weight, None, None, mean, inverse, True, 0.0, [False, True, True])
        sums = torch.cat([of_weight, of_bias])
        dist.all_reduce(sums)
        mean_gz, mean_g = (sums / total).float().chunk(2)
        gain = (weight * inverse).to(x.dtype).float()  # rounded once for all three terms, else their sum has a mean
        rest = torch.native_batch_norm(x, -gain * mean_gz, -gain * mean_g, mean, variance, False, 0.0, ctx.eps)[0]
        return rest.addcmul_(g, gain.to(g.dtype).view(1, -1, 1, 1)), of_weight, of_bias, None


class SyncBatchNorm(nn.BatchNorm2d):
    """Batch norm with the statistics of all processes' images; torch's own does not run on CPUs.

    Per channel the sums of x, of its squares and of their number go around; the rest is batch norm as everywhere.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W], normalised."""
        if not self.training:
            return super().forward(x)
        y, mean, variance, total = _Normalise.apply(x, self.weight, self.bias, self.eps)
        with torch.no_grad():
            assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_((variance * total / (total - 1)).float(), self.momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked += 1
        return y


def synchronised(model: nn.Module) -> nn.Module:
    """The model with every batch norm's statistics taken over all processes; the tensors stay where they are."""
    if any(parameter.is_cuda for parameter in model.parameters()):
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for name, module in model.named_children():
        if type(module) is nn.BatchNorm2d:
            twin = SyncBatchNorm(module.num_features, eps=module.eps, momentum=module.momentum)
            twin.weight, twin.bias = module.weight, module.bias
            twin.running_mean, twin.running_var = module.running_mean, module.running_var
            twin.num_batches_tracked = module.num_batches_tracked
            setattr(model, name, twin.train(module.training))
        else:
            synchronised(module)
    return model
