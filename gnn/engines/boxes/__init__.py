"""Boxes of atoms with a force field, from the files of several programs, and zones within them."""
