"""The error: bounds of theory, where it can sit, sampled sums and the verdict."""
