"""A model's zone in the charges around it: places, weights, energies and forces that agree."""
