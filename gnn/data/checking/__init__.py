"""Checks of frames: signs and units of labels, duplicates, statistics."""
