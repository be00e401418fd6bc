"""What a run tells: errors, tables, pictures, predictions."""
