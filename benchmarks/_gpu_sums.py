"""Direct sums on the GPU: all pairs against the device's limit, batches, listed pairs."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from _gpu import Place, Row, ceilings, sampled_error, worst_order

import multipoles as mp

# of a charge's potential and gradient at a target: 3 differences, 3 for r², 1 for q/r, 1 for 1/r²,
# 1 for their product, 1 for the potential, 3 for the gradient
INSTRUCTIONS, ROOTS = 13, 1
SHARE = 0.6  # of the limit, that is asked for


def direct(place: Place) -> Iterator[Row]:
    """Charges to potential and gradient, against the device's limit and torch's broadcasting."""
    multiply_adds, roots = ceilings(place)
    limit = 1 / max(INSTRUCTIONS / multiply_adds, ROOTS / roots)
    if not place.smoke:
        print(f"ceilings: {multiply_adds:.3g} multiply-adds/s, {roots:.3g} reciprocal roots/s,")
        print(f"  so at most {limit:.3g} pairs/s of potential and gradient in float32\n")
    for dtype, bound in ((np.float32, 1e-4), (np.float64, 1e-12)):
        n = 40 if place.smoke else 200_000
        x, q = charges(n, dtype)
        there, moments = place.put(x), place.put(q)

        def task(there=there, moments=moments) -> Any:
            return mp.field(there, there, moments, 1)

        error = sampled_error(place, task(), x, x, q, 1)
        seconds = place.seconds(task)
        rate = n * n / seconds
        single = dtype == np.float32
        yield Row(
            "direct sum, charges: potential, gradient", n, np.dtype(dtype).name, seconds,
            n * n / (SHARE * limit) if single else None, rate, "pairs",
            rate / limit if single else None, error, bound,
        )  # fmt: skip
    yield broadcasting(place)


def charges(n: int, dtype: Any = np.float32) -> tuple[np.ndarray, np.ndarray]:
    """Return points in the unit box and a charge at each, always the same ones."""
    rng = np.random.default_rng(0)
    return rng.random((n, 3)).astype(dtype), rng.standard_normal((n, 1)).astype(dtype)


def broadcasting(place: Place) -> Row:
    """Sum the same by torch's broadcasting."""
    import torch

    n = 50 if place.smoke else 20_000
    x, q = charges(n)
    there, moments = place.tensor(x), place.tensor(q)

    def task() -> Any:
        parts = []
        for targets in there.split(2000):
            d = targets[:, None] - there[None]
            r2 = d.square().sum(-1)
            inverse = torch.where(r2 > 0, r2.rsqrt(), 0)
            part = moments[:, 0] * inverse
            gradient = -((part * inverse.square())[..., None] * d).sum(1)
            parts.append(torch.cat([part.sum(1, keepdim=True), gradient], 1))
        return torch.cat(parts)

    error = sampled_error(place, task(), x, x, q, 1)
    seconds = place.seconds(task)
    return Row(
        "direct sum, the same by torch, broadcasting", n, "float32", seconds, None,
        n * n / seconds, "pairs", None, error, 1e-3,
    )  # fmt: skip


def batches(place: Place) -> Iterator[Row]:
    """Molecules, each in charges of its own, in one launch; the same by a list of pairs."""
    if place.smoke:
        yield in_batch(place, "small molecules in few charges", 3, 4, 9)
        yield in_batch(place, "molecule in many charges", 1, 3, 20)
        yield in_batch(place, "molecules in many charges", 2, 3, 20)
        yield in_pairs(place, "molecules in many charges", 2, 3, 20)
    else:
        yield in_batch(place, "small molecules in few charges", 4096, 20, 300)
        yield in_batch(place, "molecule in many charges", 1, 60, 3000)
        yield in_batch(place, "molecules in many charges", 256, 60, 3000)
        yield in_pairs(place, "molecules in many charges", 32, 60, 3000)


def molecules(systems: int, atoms: int, particles: int) -> tuple[np.ndarray, ...]:
    """Return targets, sources, charges, and to which system targets and sources belong."""
    rng = np.random.default_rng(0)
    x = rng.random((systems * atoms, 3)).astype(np.float32)
    s = rng.random((systems * particles, 3)).astype(np.float32)
    q = rng.standard_normal((len(s), 1)).astype(np.float32)
    return x, s, q, *(np.repeat(np.arange(systems), count) for count in (atoms, particles))


def in_batch(place: Place, name: str, systems: int, atoms: int, particles: int) -> Row:
    x, s, q, *index = molecules(systems, atoms, particles)
    there = [place.put(array) for array in (x, s, q)]
    ends = dict(zip(("target_batch", "source_batch"), map(place.put, index), strict=True))

    def task() -> Any:
        return mp.field(*there, 2, **ends)

    return of_molecules(place, f"batch, {name}", task, (x, s, q), systems, atoms, particles)


def in_pairs(place: Place, name: str, systems: int, atoms: int, particles: int) -> Row:
    x, s, q, *_ = molecules(systems, atoms, particles)
    of_one = np.indices((atoms, particles)).reshape(2, -1).T
    firsts = np.arange(systems)[:, None, None] * (atoms, particles)
    there = [place.put(array) for array in (x, s, q)]
    pairs = place.put((firsts + of_one).reshape(-1, 2))

    def task() -> Any:
        return mp.field(*there, 2, pairs=pairs)

    return of_molecules(place, f"pairs, {name}", task, (x, s, q), systems, atoms, particles)


def of_molecules(
    place: Place, name: str, task: Any, of: tuple, systems: int, atoms: int, particles: int
) -> Row:
    """Return the row of fields of molecules, the last of which is compared."""
    x, s, q = of
    first, other = (systems - 1) * atoms, (systems - 1) * particles
    got = place.take(task())[first:]
    expected = mp.reference.field(x[first:], s[other:], q[other:], 2)
    seconds = place.seconds(task)
    return Row(
        f"{name}: field to order 2", systems, "float32", seconds, None,
        systems * atoms * particles / seconds, "pairs", None, worst_order(got, expected, 2), 1e-4,
        f"{atoms} atoms in {particles} charges each",
    )  # fmt: skip
