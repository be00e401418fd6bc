"""Loops over pairs as vector instructions, written for given orders and kernels."""
