"""Keys of points along the curve on the GPU, and points sorted by them; see `fmm.tree.morton`."""

from typing import Any

import numpy as np

from fmm.tree.curve import CROWD, upper
from fmm.tree.morton import N_DEEP, WORD, deep_key_of, key_of
from multipoles.compiled.cuda_kernels import cuda, kernels
from multipoles.cuda.blocks import THREADS, blocks_for
from multipoles.cuda.device import Space
from multipoles.cuda.digits import DIGITS, INDEX, Digits, clear, leading_bits, settled, store
from multipoles.cuda.sorting import argsort, taken

_WIDE = np.dtype(np.float64)


def _launch(space: Space, kernel: Any, n: int, *args: Any) -> None:
    kernel(space.stream, _WIDE, blocks_for(n), THREADS, *args)


def sorted_points(
    space: Space, kinds: list[tuple[Any, ...]], root_grid: int, bits: int, width: int
) -> list[tuple[Any, Any]]:
    """Return the permutation and the keys of each kind of points; waits for what crowds.

    Leading bits tell most points apart. If not, all bits of a word are sorted by, and more words
    where many points share one.
    """
    crowded = space.zeros((len(kinds),), np.int64)
    keys, found = [], []
    for number, kind in enumerate(kinds):
        n = kind[0].shape[0]
        leading = leading_bits(n)
        digits = Digits(space, n, min(leading, width))
        keys.append(space.empty((n,), np.int64))
        _encode()(
            space.stream, _WIDE, digits.blocks, THREADS, *kind, root_grid, bits,
            max(width - leading, 0), digits.chunk, keys[-1], digits.numbers, digits.counts,
        )  # fmt: skip
        found.append(settled(space, keys[-1], digits, CROWD, crowded[number : number + 1]))
    many = space.download(crowded)
    if many.any():
        for number in np.flatnonzero(many).tolist():
            found[number] = argsort(space, keys[number], width)
        if _are_crowded(space, [kind[0] for kind in kinds], found):
            return [
                _sorted_deeply(space, x, first, inverse, own, width)
                for (x, first, _, inverse), own in zip(kinds, keys, strict=True)
            ]
    return [(permutation, own.reshape(1, own.shape[0])) for permutation, own in found]


def _are_crowded(space: Space, points: list[Any], found: list[tuple[Any, Any]]) -> bool:
    """Return whether many points share a key and are not all the same; waits for it."""
    crowded = space.zeros((1,), np.int64)
    for x, (permutation, keys) in zip(points, found, strict=True):
        _launch(space, _look_for_crowds(), x.shape[0], x, permutation, keys, crowded)
    return bool(space.download(crowded)[0])


def _sorted_deeply(
    space: Space,
    points: Any,
    starts: Any,
    inverse: Any,
    keys: Any,
    width: int,
) -> tuple[Any, Any]:
    """Return the permutation by all words, of which `keys` is the first, and these permuted."""
    n = points.shape[0]
    words = space.empty((1 + N_DEEP, n), np.int64)
    permutation = None
    for word in range(N_DEEP, -1, -1):
        values = keys
        if word > 0:
            values = space.empty((n,), np.int64)
            _launch(space, _encode_deep(), n, points, starts, inverse, word, values)
        words[word].copy_to_device(values, stream=space.stream)
        sent = values if permutation is None else taken(space, values, permutation)
        after, _ = argsort(space, sent, 3 * WORD if word > 0 else width)
        permutation = after if permutation is None else taken(space, permutation, after)
    for word in range(1 + N_DEEP):
        words[word].copy_to_device(taken(space, words[word], permutation), stream=space.stream)
    return permutation, words


@kernels
def _encode():
    def loop(
        points, starts, corner, inverse, root_grid, bits, dropped, chunk, keys, numbers, counts
    ):
        """Write the keys of a chunk of points, and the leading bits of each to sort by."""
        shared = cuda.shared.array(DIGITS, np.int32)
        clear(shared)
        first = cuda.blockIdx.x * chunk
        for i in range(first + cuda.threadIdx.x, min(first + chunk, points.shape[0]), THREADS):
            system = upper(starts, 0, starts.shape[0], i) - 1
            key = key_of(points, i, system, corner, inverse, root_grid, bits)
            keys[i] = key
            leading = key >> dropped
            numbers[i] = leading << INDEX | i
            cuda.atomic.add(shared, leading & (DIGITS - 1), 1)
        store(shared, counts)

    return loop


@kernels
def _encode_deep():
    def loop(points, starts, inverse, word, keys):
        i = cuda.grid(1)
        if i < points.shape[0]:
            system = upper(starts, 0, starts.shape[0], i) - 1
            keys[i] = deep_key_of(points, i, system, inverse, word)

    return loop


@kernels
def _look_for_crowds():
    def loop(points, permutation, keys, crowded):
        """Look at a point and the next: whether they differ and share a key with many others."""
        i = cuda.grid(1)
        n = keys.shape[0]
        if i >= n - 1 or keys[i] != keys[i + 1]:
            return
        a, b = permutation[i], permutation[i + 1]
        differ = False
        for axis in range(3):
            differ = differ or points[a, axis] != points[b, axis]
        if differ and upper(keys, i, n, keys[i]) - upper(keys, 0, i, keys[i] - 1) > CROWD:
            crowded[0] = 1

    return loop
