"""Complete runs in their folders: training stages, fine-tuning a network, and probing its layers."""
