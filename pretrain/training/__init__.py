"""Training: the loop and its callbacks, the greedy training of stages, and the fine-tuning of a network."""
