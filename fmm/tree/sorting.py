"""Sorting of Morton keys, digit by digit, and of what belongs to points."""

import numpy as np

from multipoles.compiled.jit import bare, run_chunks

_BITS = 8  # of a digit: as many places to write to as the caches follow at once
_DIGITS = 64 // _BITS
_SIZE = 1 << _BITS
_NUMBER = 5.0  # what moving a number costs, in pairs
_FEW = 2000  # keys that are sorted sooner by comparing them


def argsort(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the stable permutation that sorts keys, and the keys sorted.

    Parameters
    ----------
    keys : ndarray of int64, shape (n,)
        Not negative.

    Returns
    -------
    permutation, sorted : ndarray of int64, shape (n,)
    """
    n = len(keys)
    if n < _FEW:
        permutation = np.argsort(keys, kind="stable")
        return permutation, keys[permutation]
    counts = np.zeros((_DIGITS, _SIZE), np.int64)
    _count(keys, counts)
    now, other = (np.arange(n), keys.copy()), (np.empty(n, np.int64), np.empty(n, np.int64))
    for digit in np.flatnonzero(counts.max(axis=1) < n):
        places = np.cumsum(counts[digit]) - counts[digit]
        _distribute(*now, digit * _BITS, places, *other)
        now, other = other, now
    return now


def gathered(rows: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Return ``rows[index]``; indices are known to be in range."""
    out = np.empty((len(index), *rows.shape[1:]), rows.dtype)

    def task(first: int, last: int) -> None:
        # "clip" lets it write where it is told; the interpreter's lock is released
        np.take(rows, index[first:last], axis=0, out=out[first:last], mode="clip")

    run_chunks(task, len(out), _NUMBER * out.size)
    return out


@bare
def _count(keys, counts):
    """Count how often each value of every digit occurs."""
    for i in range(len(keys)):
        key = keys[i]
        for digit in range(_DIGITS):
            counts[digit, key & (_SIZE - 1)] += 1
            key >>= _BITS


@bare
def _distribute(permutation, keys, shift, places, permuted, distributed):
    """Put keys, and what was there before, in the order of one of their digits."""
    for i in range(len(keys)):
        digit = (keys[i] >> shift) & (_SIZE - 1)
        place = places[digit]
        places[digit] = place + 1
        permuted[place] = permutation[i]
        distributed[place] = keys[i]
