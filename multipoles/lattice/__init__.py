"""Sums over all images of what repeats in one, two or three directions."""
