"""Torch operators: the multipole field, and the edge operators of message passing."""
