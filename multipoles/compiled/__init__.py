"""Numba and LLVM: compiling, its cache, vectors of numbers, and the one door to numba.cuda."""
