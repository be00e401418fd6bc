"""What a model was trained on, and how far an input lies outside of it."""
