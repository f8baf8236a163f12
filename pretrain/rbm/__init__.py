"""Restricted Boltzmann machines: energies, Gibbs chains, likelihoods, and exact enumeration of tiny ones."""
