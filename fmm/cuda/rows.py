"""Rows of arrays (n, channels, k) on the GPU: copied, permuted, multiplied."""

import numpy as np

from fmm.cuda.curve import DeviceArray, copying
from multipoles.compiled.cuda_kernels import SIMULATED, cuda, kernels
from multipoles.cuda.device import Space
from multipoles.cuda.sorting import blocks_for

THREADS = 8 if SIMULATED else 128


def copy(space: Space, values: DeviceArray, out: DeviceArray) -> None:
    """Copy all numbers of an array to another, whose type may be wider."""
    n = int(np.prod(values.shape))
    copying()(
        space.stream, np.result_type(values.dtype, out.dtype), blocks_for(n, THREADS), THREADS,
        values.reshape(-1), out.reshape(-1),
    )  # fmt: skip


def move(space: Space, permutation: DeviceArray, values: DeviceArray, out: DeviceArray) -> None:
    """Copy ``values[permutation]``; the type of numbers may change."""
    wide = np.result_type(values.dtype, out.dtype)
    width = values.shape[1] * values.shape[2]
    blocks = blocks_for(permutation.shape[0] * width, THREADS)
    _move()(
        space.stream, wide, blocks, THREADS, permutation, width, values.reshape(-1),
        out.reshape(-1),
    )  # fmt: skip


def picked(space: Space, values: DeviceArray, rows: np.ndarray) -> np.ndarray:
    """Return some rows of values, on the host; waits for them."""
    out = space.empty((len(rows), *values.shape[1:]), values.dtype)
    move(space, space.upload(np.asarray(rows, np.int64)), values, out)
    return space.download(out)


def multiply(
    space: Space,
    values: DeviceArray,
    key: tuple[str, int],
    matrix: np.ndarray,
    out: DeviceArray,
    added: DeviceArray = None,
) -> None:
    """Write the rows of values times a matrix, known by a key, and another array's, if given."""
    others = out if added is None else added
    wide = np.result_type(values.dtype, others.dtype, out.dtype)
    table = space.constant(
        (*key, wide.name), lambda: np.ascontiguousarray(matrix.astype(wide)).reshape(-1)
    )
    n_in, n_out = matrix.shape
    n = out.shape[0] * out.shape[1] * n_out
    _multiply(int(added is not None))(
        space.stream, wide, blocks_for(n, THREADS), THREADS, values.reshape(-1), table, n_in,
        n_out, others.reshape(-1), out.reshape(-1),
    )  # fmt: skip


# --- kernels --------------------------------------------------------------------------------------


@kernels
def _move():
    def loop(permutation, width, values, out):
        i = cuda.grid(1)
        if i < permutation.shape[0] * width:
            out[i] = values[permutation[i // width] * width + i % width]

    return loop


@kernels
def _multiply(added):
    def loop(values, matrix, n_in, n_out, others, out):
        i = cuda.grid(1)
        if i < out.shape[0]:
            row, column = i // n_out, i % n_out
            total = 0.0
            for k in range(n_in):
                total += values[row * n_in + k] * matrix[k * n_out + column]
            if added:
                total += others[i]
            out[i] = total

    return loop
