"""Optimizers over groups of parameters."""

from typing import Any

import torch

from pretrain.training.recipes import Training


def build_optimizer(groups: list[dict[str, Any]], settings: Training) -> torch.optim.Optimizer:
    """Return the optimizer of parameter groups, each {"params": [...], ...}; biases go undecayed."""
    split = []
    for group in groups:
        matrices = [p for p in group["params"] if p.ndim > 1]
        vectors = [p for p in group["params"] if p.ndim <= 1]
        split += [{**group, "params": matrices}, {**group, "params": vectors, "weight_decay": 0.0}]
    split = [group for group in split if group["params"]]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            split,
            lr=settings.learning_rate,
            momentum=settings.momentum,
            nesterov=settings.nesterov and settings.momentum > 0,
            weight_decay=settings.weight_decay,
        )
    return torch.optim.AdamW(split, lr=settings.learning_rate, weight_decay=settings.weight_decay)
