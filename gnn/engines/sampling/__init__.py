"""Sampling beyond one run: collective variables, biases, free energies, replicas."""
