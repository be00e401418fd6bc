"""Periodic sums on a mesh: gridding, Fourier transform, interpolation, and near pairs."""
