"""The commands of ``anisole``: one module for each group, each with a `register`.

These modules are light: what a command needs is imported when it runs.
"""
