"""Numba and LLVM: compiling, its cache, vectors of numbers, and the doors to numba.cuda."""
