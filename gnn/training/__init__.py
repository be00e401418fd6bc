"""Training: configuration, loss, loop, checkpoints, metrics, pictures."""
