"""With a GPU at hand, a module that is missing is an error, not a reason to leave tests out."""

from gpu_state import gpu_present

if gpu_present():
    import numba.cuda  # noqa: F401
    import torch  # noqa: F401
