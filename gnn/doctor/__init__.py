"""The examination of a model: what it knows, and how it behaves where it was not trained."""
