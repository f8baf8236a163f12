"""How good a network or its layers are: predictions, linear probes, fitted heads, and checks of gradients."""
