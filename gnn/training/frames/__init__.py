"""Which frames a run learns from: read, split, checked, and in batches."""
