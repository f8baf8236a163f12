"""Penalties that hold weights to where they start."""

from collections.abc import Callable

import torch


def towards_start(optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    """Return what pulls parameters towards where they are now, after an update: ``w <- w - lr l2_sp (w - start)``.

    This is L2-SP, the penalty ``l2_sp / 2 ||w - start||^2``, decoupled from the gradient as AdamW's weight decay is.

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
        for group, start in zip(optimizer.param_groups, starts, strict=True):
            for parameter, began in zip(group["params"], start, strict=True):
                parameter.lerp_(began, group["lr"] * group["l2_sp"])

    return pull
