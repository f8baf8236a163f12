"""Random whole numbers, which are quicker to draw than real ones."""

import torch
from torch import Tensor

from pretrain.runs.batch_parts import part_of


def sixteen_bits(like: Tensor, generator: torch.Generator) -> Tensor:
    """Return whole numbers from [-2^15, 2^15), int16, in the shape and memory format of a tensor, (N, ...).

    Drawing bits is what takes the time, so four numbers share a draw of 64 bits.
    """
    part = part_of(generator)
    words = torch.empty(-(-part.count * like.numel() // 4), dtype=torch.int64, device=like.device)
    bits = words.random_(-(2**63), None, generator=generator).view(torch.int16)[: part.count * like.numel()]
    offset = part.take(bits).storage_offset()
    return bits.as_strided(like.shape, torch.empty_like(like, device="meta").stride(), offset)
