"""The GPU half: device arrays, sorting, neighbours and the loops over pairs."""
