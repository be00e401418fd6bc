"""The far field: harmonics, expansions, translations and the steps of the method in order."""
