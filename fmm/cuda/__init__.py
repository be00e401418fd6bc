"""The GPU half of each room, under the same names."""
