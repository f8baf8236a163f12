"""Training: the one loop, the greedy training of stages, and the fine-tuning of a network."""
