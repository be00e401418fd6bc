"""The fast multipole method in a cell: boxes of the cell's shape, their images, lattice sums."""
