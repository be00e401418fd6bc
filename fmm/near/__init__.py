"""The near field: pairs of points summed by vector instructions."""
