"""Pictures of one run: filters, reconstructions, samples, health and learning curves."""
