"""What stays with the force field once a model has taken its zone."""
