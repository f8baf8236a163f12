"""A penalty that holds weights near the values they start from."""

from collections.abc import Callable

import torch


def decoupled_l2_sp(optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    """Return a function that pulls parameters towards their present values: ``w <- w - lr l2_sp (w - start)``.

    The function is called after each update. This is L2-SP, the penalty ``l2_sp / 2 ||w - start||^2``, decoupled from
    the gradient as AdamW's weight decay is.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        Each of its groups has a strength, "l2_sp", and a learning rate, "lr".

    References
    ----------
    Li, Grandvalet and Davoine (2018), Explicit inductive bias for transfer learning with convolutional networks.
    ICML.
    """
    starts = [[parameter.detach().clone() for parameter in group["params"]] for group in optimizer.param_groups]

    @torch.no_grad()
    def pull() -> None:
        for group, group_starts in zip(optimizer.param_groups, starts, strict=True):
            for parameter, start in zip(group["params"], group_starts, strict=True):
                parameter.lerp_(start, group["lr"] * group["l2_sp"])

    return pull
