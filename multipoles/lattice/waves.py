"""Plane waves of a box: the structure factors of moments, and fields made of waves.

Waves are numbered by three whole numbers m = (a, b, c), |a| <= A, |b| <= B, 0 <= c <= C; those of
c < 0 are the conjugates. Points come in fractional coordinates u, moments and fields as derivatives
by these, so that all factors exp(2πi m·u) (2πi m)^γ are products of one for each axis, and the sums
over points are products of matrices.

    structure factor   S_m = Σ_j exp(-2πi m·u_j) Σ_γ (-2πi m)^γ M_jγ
    synthesis          Φ_γ(u) = Σ_m c_m (2πi m)^γ exp(2πi m·u)

Each is the adjoint of the other, and their derivatives by u are the same with an order more.
"""

from functools import lru_cache

import numpy as np

from multipoles import indexing
from multipoles.compiled.jit import bare, bare_inline
from multipoles.polynomials import monomial_matrices

Limits = tuple[int, int, int]
# bytes of the products of waves of two axes, for a block of points, and its least number of points
_BLOCK, _LEAST = 1e6, 128


def shape_of(limits: Limits) -> tuple[int, int, int]:
    """Return how many waves of each axis are stored."""
    a, b, c = limits
    return 2 * a + 1, 2 * b + 1, c + 1


def numbers(limits: Limits) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the whole numbers of each axis."""
    a, b, c = limits
    return np.arange(-a, a + 1), np.arange(-b, b + 1), np.arange(c + 1)


def wave_vectors(limits: Limits, inverse: np.ndarray) -> np.ndarray:
    """Return k = 2π inverse m of all waves, (*shape_of(limits), 3); u = x @ inverse."""
    grid = np.stack(np.meshgrid(*numbers(limits), indexing="ij"), axis=-1)
    vectors: np.ndarray = 2 * np.pi * grid @ inverse.T
    return vectors


def structure_factors(u: np.ndarray, moments: np.ndarray, limits: Limits) -> np.ndarray:
    """Return the structure factors of moments.

    Parameters
    ----------
    u : ndarray, shape (n, 3)
        Fractional coordinates.
    moments : ndarray, shape (n, channels, n_components(K))
        In fractional coordinates, see `fractional_moments`.
    limits : tuple of int
        Greatest numbers of waves.

    Returns
    -------
    ndarray, complex128, shape (channels, *shape_of(limits))
    """
    order = indexing.order_of(moments.shape[2])
    _, n_b, n_c = shape_of(limits)
    n_ab = (limits[0] + 1) * n_b
    # waves of a from 0 on, and c of both signs: those of -m are the conjugates
    both = np.zeros((2, moments.shape[1], n_ab, n_c), np.complex128)
    orders = _wave_powers(limits[2], order, -1)
    orders = np.stack([orders[limits[2] :], orders[limits[2] :: -1]])
    for block in _blocks(len(u), n_ab):
        first, second, third = (_half(u[block, i], limits[i], -1) for i in range(3))
        third = np.concatenate([third.real, third.imag], axis=1)
        products = np.empty((len(third), 2, n_ab))
        for channel in range(moments.shape[1]):
            cube = _cube(moments[block, channel], order)
            for power in range(order + 1):
                _fill_products(first, second, cube, power, products)
                sums = products.reshape(len(third), -1).T @ third
                (pc, ps), (qc, qs) = sums.reshape(2, n_ab, 2, n_c).swapaxes(1, 2)
                both[0, channel] += ((pc - qs) + 1j * (ps + qc)) * orders[0, :, power]
                both[1, channel] += ((pc + qs) + 1j * (qc - ps)) * orders[1, :, power]
    plus, minus = both.reshape(2, -1, limits[0] + 1, n_b, n_c)
    return np.concatenate([minus[:, :0:-1, ::-1].conj(), plus], axis=1)


def synthesis(u: np.ndarray, coefficients: np.ndarray, order: int, limits: Limits) -> np.ndarray:
    """Return the field made of waves, real since those of -m are the conjugates.

    Parameters
    ----------
    u : ndarray, shape (n, 3)
        Fractional coordinates.
    coefficients : ndarray, shape (channels, *shape_of(limits))
        c_m; that of -m counts as its conjugate.
    order : int
        Highest derivative.
    limits : tuple of int
        Greatest numbers of waves.

    Returns
    -------
    ndarray, float64, shape (n, channels, n_components(order))
        Derivatives by u.
    """
    n_a, n_b, n_c = shape_of(limits)
    channels = len(coefficients)
    twice = np.where(np.arange(n_c) > 0, 2.0, 1.0)
    rows = (coefficients * twice).reshape(channels, n_a * n_b, n_c).transpose(0, 2, 1)
    places, (x, y, z) = np.arange(indexing.n_components(order)), indexing.multi_indices(order).T
    orders = _wave_powers(limits[2], order, 1)[limits[2] :]
    out = np.empty((len(u), channels, indexing.n_components(order)))
    for block in _blocks(len(u), n_a * n_b):
        first, second = (_phases(u[block, i], limits[i], order, 1) for i in (0, 1))
        first = first.transpose(0, 2, 1)
        third = _half(u[block, 2], limits[2], 1)
        for channel in range(channels):
            for power in range(order + 1):
                left = order + 1 - power
                sums = (third * orders[:, power]) @ rows[channel]
                inner = sums.reshape(-1, n_a, n_b) @ second[:, :, :left]
                both = (first[:, :left] @ inner).real
                chosen = places[z == power]
                out[block][:, channel, chosen] = both[:, x[chosen], y[chosen]]
    return out


def fractional_moments(moments: np.ndarray, inverse: np.ndarray) -> np.ndarray:
    """Return moments in coordinates u = x @ inverse, so that M·k^α = M'·(2πm)^α."""
    out = np.empty(moments.shape)
    order = indexing.order_of(moments.shape[-1])
    for rank, matrix in enumerate(monomial_matrices(inverse, order)):
        here = indexing.order_slice(rank)
        out[..., here] = moments[..., here] @ matrix
    return out


def cartesian_field(phi: np.ndarray, inverse: np.ndarray) -> np.ndarray:
    """Return derivatives by x of what is given by derivatives by u = x @ inverse."""
    out = np.empty(phi.shape)
    order = indexing.order_of(phi.shape[-1])
    for rank, matrix in enumerate(monomial_matrices(inverse, order)):
        here = indexing.order_slice(rank)
        out[..., here] = phi[..., here] @ matrix.T
    return out


def _blocks(n: int, products: int) -> list[slice]:
    size = max(int(_BLOCK / (16 * products)), _LEAST)
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


@lru_cache(maxsize=64)
def _wave_powers(limit: int, order: int, sign: int) -> np.ndarray:
    """Return (sign 2πi m)^p for |m| <= limit, p <= order."""
    factor = sign * 2j * np.pi * np.arange(-limit, limit + 1)
    powers: np.ndarray = factor[:, None] ** np.arange(order + 1)
    powers.flags.writeable = False
    return powers


def _phases(u: np.ndarray, limit: int, order: int, sign: int) -> np.ndarray:
    """Return exp(sign 2πi m u) (sign 2πi m)^p, (n, 2 limit + 1, order + 1)."""
    half = _half(u, limit, sign)
    full = np.concatenate([half[:, :0:-1].conj(), half], axis=1)
    made: np.ndarray = full[:, :, None] * _wave_powers(limit, order, sign)
    return made


def _half(u: np.ndarray, limit: int, sign: int) -> np.ndarray:
    """Return exp(sign 2πi m u) for m from 0, (n, limit + 1)."""
    waves = np.empty((len(u), limit + 1), np.complex128)
    _fill_half(np.ascontiguousarray(u), float(sign), np.empty((2, len(u))), waves)
    return waves


def _cube(moments: np.ndarray, order: int) -> np.ndarray:
    """Return packed moments (n, components) as (n, order + 1, order + 1, order + 1)."""
    cube = np.zeros((len(moments), *(order + 1,) * 3))
    x, y, z = indexing.multi_indices(order).T
    cube[:, x, y, z] = moments
    return cube


# --- loops ----------------------------------------------------------------------------------------


@bare
def _fill_half(u, sign, turns, waves):
    _fill_turns(u, sign, turns)
    for i in range(u.shape[0]):
        waves[i, 0] = 1.0
        if waves.shape[1] > 1:
            waves[i, 1] = complex(turns[0, i], turns[1, i])
        # few products, so that rounding does not grow with m
        for m in range(2, waves.shape[1]):
            waves[i, m] = waves[i, m // 2] * waves[i, m - m // 2]


@bare_inline
def _fill_turns(u, sign, turns):
    """Write cos and sin of sign 2πu: their series at half the angle, which is π/2 at most."""
    for i in range(u.shape[0]):
        # whole turns are taken off first: what is left has all digits
        half = np.pi * (u[i] - np.floor(u[i] + 0.5))
        square = half * half
        c, s = 1.0, 1.0
        for k in range(11, 0, -1):
            c = 1.0 - c * square / ((2 * k - 1) * (2 * k))
            s = 1.0 - s * square / ((2 * k) * (2 * k + 1))
        s *= half
        turns[0, i] = 1.0 - 2.0 * s * s
        turns[1, i] = sign * 2.0 * s * c


@bare
def _fill_products(first, second, cube, power, out):
    """Write the waves of a from 0 and b of both signs, times moments, as real and imaginary parts.

    Of moments of one power along the third axis; each power along the others multiplies by -2πi m.
    """
    n_a, n_b, left = first.shape[1], second.shape[1], cube.shape[1] - power
    for i in range(first.shape[0]):
        for a in range(n_a):
            place = a * (2 * n_b - 1) + n_b - 1
            alone = first[i, a] * cube[i, 0, 0, power]
            for b in range(n_b):
                even, odd = alone, complex(0.0, 0.0)
                if left > 1:
                    even, odd = _sums_of_powers(cube, i, power, left, a, b)
                    even, odd = first[i, a] * even, first[i, a] * odd
                # of waves of b and -b: sums and differences of the same products
                up, down = even + odd, even - odd
                re, im = second[i, b].real, second[i, b].imag
                out[i, 0, place + b] = up.real * re - up.imag * im
                out[i, 1, place + b] = up.real * im + up.imag * re
                out[i, 0, place - b] = down.real * re + down.imag * im
                out[i, 1, place - b] = down.imag * re - down.real * im


@bare_inline
def _sums_of_powers(cube, i, power, left, a, b):
    """Return Σ_pq (-2πi a)^p (-2πi b)^q M_pq over even and over odd q."""
    even, odd = complex(0.0, 0.0), complex(0.0, 0.0)
    along = complex(1.0, 0.0)
    for p in range(left):
        aside = along
        for q in range(left - p):
            if q % 2 == 0:
                even += aside * cube[i, p, q, power]
            else:
                odd += aside * cube[i, p, q, power]
            aside *= complex(0.0, -2.0 * np.pi * b)
        along *= complex(0.0, -2.0 * np.pi * a)
    return even, odd
