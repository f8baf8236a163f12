"""One run in its folder from start to end: training stages, fine-tuning a network, probing its layers."""
