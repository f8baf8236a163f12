"""A transposed convolution that is quick on CPUs, with its gradients."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_weight

from pretrain.network.autocast import product_dtype

FEW_CHANNELS = 4


def conv_transpose(h: Tensor, weight: Tensor, padding: int = 0, bias: Tensor | None = None, stride: int = 1) -> Tensor:
    """Return the transposed convolution, (N, K, H, W), (K, C, F, F) -> (N, C, (H - 1) stride + F - 2 padding, ...).

    The bias, (C,), is added to the channels. The result is torch's own but for rounding, and it can be differentiated
    once.
    """
    dtype = product_dtype(h)
    bias = weight.new_zeros(weight.shape[1]) if bias is None else bias
    return _ConvTranspose.apply(h.to(dtype), weight.to(dtype), bias.to(dtype), padding, stride)


class _ConvTranspose(torch.autograd.Function):
    """The transposed convolution, whose gradients are a convolution and that of a convolution.

    On a CPU, torch's own gradient takes a quarter longer where there is a bias.
    """

    @staticmethod
    def forward(ctx: Any, h: Tensor, weight: Tensor, bias: Tensor, padding: int, stride: int) -> Tensor:
        ctx.save_for_backward(h, weight)
        ctx.padding, ctx.stride = padding, stride
        channels, side = weight.shape[1], weight.shape[2]
        sides = [n + side - 1 - 2 * padding for n in h.shape[2:]]
        if stride > 1 or channels > FEW_CHANNELS or padding >= side or any(n % 2 for n in sides):
            return F.conv_transpose2d(h, weight, bias, stride, padding)
        return _in_blocks(h, weight, bias, padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        h, weight = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        towards_h = F.conv2d(gradient, weight, None, ctx.stride, ctx.padding)
        towards_weight = conv2d_weight(gradient, weight.shape, h, ctx.stride, ctx.padding)
        return towards_h, towards_weight, gradient.sum(dim=(0, 2, 3)), None, None


def _in_blocks(h: Tensor, weight: Tensor, bias: Tensor, padding: int) -> Tensor:
    """Return the transposed convolution to few channels, such as those of an image, and to even sides.

    A convolution gives 2 x 2 pixels at once. Its channels fill a processor's vectors, which is twice as fast on CPUs.
    """
    turned = weight.flip(2, 3).transpose(0, 1)  # (C, K, F, F), as a convolution has it
    shifted = [F.pad(turned, (column, 1 - column, row, 1 - row)) for row in (0, 1) for column in (0, 1)]
    filters = torch.stack(shifted, dim=1).flatten(0, 1)  # (4 C, K, F + 1, F + 1)
    filters = filters.contiguous(memory_format=torch.channels_last)
    blocks = F.conv2d(h, filters, bias.repeat_interleave(4), stride=2, padding=weight.shape[2] - 1 - padding)
    return F.pixel_shuffle(blocks, 2)
