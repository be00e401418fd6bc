"""Geometry: keys, boxes and interaction lists. It knows no physics."""
