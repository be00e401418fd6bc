"""Runs of molecular dynamics: settings, files, restarts, failures."""
