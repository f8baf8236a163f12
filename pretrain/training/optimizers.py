"""Optimizers over groups of parameters."""

from typing import Any

import torch

from pretrain.training.recipes import Training


def build_optimizer(groups: list[dict[str, Any]], training: Training) -> torch.optim.Optimizer:
    """Return the optimizer of parameter groups, each ``{"params": [...], ...}``. Biases are not decayed."""
    split = []
    for group in groups:
        matrices = [p for p in group["params"] if p.ndim > 1]
        vectors = [p for p in group["params"] if p.ndim <= 1]
        split += [{**group, "params": matrices}, {**group, "params": vectors, "weight_decay": 0.0}]
    split = [group for group in split if group["params"]]
    if training.optimizer == "sgd":
        return torch.optim.SGD(
            split,
            lr=training.learning_rate,
            momentum=training.momentum,
            nesterov=training.nesterov and training.momentum > 0,
            weight_decay=training.weight_decay,
        )
    return torch.optim.AdamW(split, lr=training.learning_rate, weight_decay=training.weight_decay)
