"""Layers of the AMP model."""
