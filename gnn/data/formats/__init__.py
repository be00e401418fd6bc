"""Read and write frames: HDF5 and extended XYZ."""
