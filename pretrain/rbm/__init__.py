"""Restricted Boltzmann machines: energies, Gibbs chains, likelihoods, and tiny ones gone through exactly."""
