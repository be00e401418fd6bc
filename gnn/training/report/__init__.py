"""The output of a run: errors, tables, pictures, predictions, progress."""
