"""Evaluation of a network and its layers: predictions, linear probes, fitted heads, and gradient checks."""
