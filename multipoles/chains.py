"""Scalar functions that write the chain B_0 ... B_last of one radial kernel for one pair.

They write ``out[start + n * stride]``; r2 > 0. The recursions run in the direction in which
nothing cancels, with a series where none does. The CPU computes them in float64, the GPU in the
type of its kernels: so factors are running real numbers, since an integer times float32 is float64.
"""

import math

import numpy as np

from multipoles.compiled.jit import bare, bare_inline, jit

COULOMB, YUKAWA, ERF, ERFC, THOLE, REACTION_FIELD, INVERSE_POWER, SOFTENED = range(8)

_ROOT_PI = math.sqrt(math.pi)
_GAMMA_TWO_THIRDS = math.gamma(2.0 / 3.0)
LONGEST = 32
# below about this a r^3 the series in a r^3 keeps more digits than 1 - p exp(-x)
_THOLE_SERIES = 2.3


def _thole_polynomials() -> np.ndarray:
    """Coefficients of p_n: p_1 = 1, p_{n+1} = p_n + 3x (p_n - p_n')/(2n+1)."""
    table = np.zeros((LONGEST + 1, LONGEST + 1))
    table[1, 0] = 1.0
    k = np.arange(LONGEST + 1)
    for n in range(1, LONGEST):
        table[n + 1] = table[n] * (1 - 3 * k / (2 * n + 1))
        table[n + 1, 1:] += 3 / (2 * n + 1) * table[n, :-1]
    return table


_THOLE = _thole_polynomials()


def _softened_polynomials() -> np.ndarray:
    """Coefficients of (s - 1)^k in the n-th derivative of the series of s^(-1/2), times 2^n."""
    size = LONGEST + 1
    table = np.zeros((size, size))
    binomial = np.cumprod([1.0, *((-0.5 - k) / (k + 1) for k in range(size - 1))])
    for n in range(size):
        for k in range(size - n):
            table[n, k] = 2.0**n * binomial[n + k] * math.perm(n + k, n)
    return table


SOFTENED_TABLE = _softened_polynomials()

# links that `erf_by_table` has, and terms of its series
TABULATED, _TERMS = 12, 13
_PER_UNIT, _UNITS = 2, 66


def _boys_functions() -> np.ndarray:
    """F_n(t), n = 0 ... TABULATED + _TERMS - 1, then exp(-t), at t = 0, 1/2, ... a row each."""
    t = np.arange(_PER_UNIT * _UNITS + 1) / _PER_UNIT
    top = TABULATED + _TERMS - 1
    table = np.empty((len(t), top + 2))
    decay = table[:, -1] = np.exp(-t)
    terms = np.cumprod(2 * t[:, None] / (2 * top + 1 + 2 * np.arange(1, 220)), axis=1)
    boys = decay * (1 + terms.sum(axis=1)) / (2 * top + 1)
    for n in range(top, -1, -1):
        table[:, n] = boys
        boys = (2 * t * boys + decay) / (2 * n - 1)
    return table


_BOYS = _boys_functions()
_INVERSES = 1 / np.maximum(np.arange(_TERMS), 1)
_ODD_INVERSES = 1 / (2.0 * np.arange(TABULATED + 1) - 1)


@bare_inline
def coulomb(r2, parameters, last, out, start, stride):
    """B_n = (2n-1)!!/r^(2n+1)."""
    inverse = 1.0 / r2
    b = math.sqrt(inverse)
    odd = 1.0
    out[start] = b
    for n in range(last):
        b *= odd * inverse
        odd += 2.0
        out[start + (n + 1) * stride] = b


@bare_inline
def yukawa(r2, parameters, last, out, start, stride):
    """B_{n+1} = ((2n+1) B_n + kappa^2 B_{n-1})/r^2, that of spherical Bessel functions k_n."""
    kappa = parameters[0]
    r = math.sqrt(r2)
    inverse = 1.0 / r2
    before = math.exp(-kappa * r) / r
    out[start] = before
    if last == 0:
        return
    b = (1.0 + kappa * r) * before * inverse
    out[start + stride] = b
    odd = 3.0
    for n in range(1, last):
        before, b = b, (odd * b + kappa * kappa * before) * inverse
        odd += 2.0
        out[start + (n + 1) * stride] = b


@bare_inline
def erf(r2, parameters, last, out, start, stride):
    """B_n = 2 alpha/sqrt(pi) (2 alpha^2)^n F_n(alpha^2 r^2), F_n Boys's function."""
    alpha = parameters[0]
    square = alpha * alpha
    t = square * r2
    decay = math.exp(-t)
    odd = 1.0
    for _ in range(last):
        odd += 2.0
    # 16 + last
    if 2.0 * t > 31.0 + odd:
        r = math.sqrt(r2)
        b = math.erf(alpha * r) / r
        gauss = 2.0 * alpha / _ROOT_PI * decay
        odd = 1.0
        out[start] = b
        for n in range(last):
            b = (odd * b - gauss) / r2
            odd += 2.0
            gauss *= 2.0 * square
            out[start + (n + 1) * stride] = b
        return
    # all terms positive: F_n = exp(-t) sum_i (2t)^i / ((2n+1)(2n+3)...(2n+2i+1))
    denominator = odd
    term = 1.0 / denominator
    boys = term
    while term > 1e-17 * boys:
        denominator += 2.0
        term *= 2.0 * t / denominator
        boys += term
    boys *= decay
    for n in range(last, -1, -1):
        out[start + n * stride] = boys
        odd -= 2.0
        boys = (2.0 * t * boys + decay) / odd
    # upwards, since powers of a small alpha end as zero
    power = 2.0 * alpha / _ROOT_PI
    for n in range(last + 1):
        out[start + n * stride] *= power
        power *= 2.0 * square


@bare_inline
def erf_by_table(r2, parameters, last, out, start, stride):
    """Do the same for (alpha r)^2 < 66 and last <= TABULATED, with the sign of g_n = (-1)^n B_n.

    F_n(t + d) = sum_k F_(n+k)(t) (-d)^k / k! from the nearest row of a table.
    """
    alpha = parameters[0]
    square = alpha * alpha
    t = square * r2
    row = int(_PER_UNIT * t + 0.5)
    d = t - row * (1.0 / _PER_UNIT)
    boys, decay = _BOYS[row, last + _TERMS - 1], 1.0
    for k in range(_TERMS - 1, 0, -1):
        step = d * _INVERSES[k]
        boys = _BOYS[row, last + k - 1] - boys * step
        decay = 1.0 - decay * step
    decay *= _BOYS[row, TABULATED + _TERMS]
    for n in range(last, -1, -1):
        out[start + n * stride] = boys
        boys = (2.0 * t * boys + decay) * _ODD_INVERSES[n]
    power = 2.0 * alpha / _ROOT_PI
    for n in range(last + 1):
        out[start + n * stride] *= power
        power *= -2.0 * square


@bare_inline
def erfc(r2, parameters, last, out, start, stride):
    """B_{n+1} = ((2n+1) B_n + (2 alpha^2)^(n+1)/(alpha sqrt(pi)) exp(-alpha^2 r^2))/r^2."""
    alpha = parameters[0]
    square = alpha * alpha
    r = math.sqrt(r2)
    b = math.erfc(alpha * r) / r
    gauss = 2.0 * alpha / _ROOT_PI * math.exp(-square * r2)
    odd = 1.0
    out[start] = b
    for n in range(last):
        b = (odd * b + gauss) / r2
        odd += 2.0
        gauss *= 2.0 * square
        out[start + (n + 1) * stride] = b


@bare_inline
def upper_gamma_two_thirds(x):
    """Return Gamma(2/3, x): a series below two, above a continued fraction (Lentz)."""
    if x < 2.0:
        shape = 2.0 / 3.0
        term = 1.0 / shape
        total = term
        while term > 1e-17 * total:
            shape += 1.0
            term *= x / shape
            total += term
        return _GAMMA_TWO_THIRDS - x ** (2.0 / 3.0) * math.exp(-x) * total
    b = x + 1.0 / 3.0
    c = 1e30
    d = 1.0 / b
    fraction = d
    count = 0.0
    for _ in range(1, 200):
        count += 1.0
        a = -count * (count - 2.0 / 3.0)
        b += 2.0
        d = 1.0 / (a * d + b)
        c = b + a / c
        factor = c * d
        fraction *= factor
        if abs(factor - 1.0) < 1e-16:
            break
    return math.exp(-x) * x ** (2.0 / 3.0) * fraction


@bare_inline
def thole_series(r2, a, n):
    """Return B_n, n >= 1, by powers of x = a r^3: -(1/r d/dr) applied to (1 - exp(-x))/r^3."""
    r = math.sqrt(r2)
    x = a * r2 * r
    total = 0.0
    size = 0.0
    power = -1.0
    count = 0.0
    for k in range(1, 80):
        count += 1.0
        power *= -x / count
        term = power
        step = 3.0 * count - 3.0
        for _ in range(n - 1):
            term *= -step
            step -= 2.0
        total += term
        # a vanishing coefficient is no sign of convergence, and early ones may be small
        size = max(size, abs(term))
        if 3 * k > 2 * n + 3 and abs(term) < 1e-18 * size and abs(power) < 1e-18:
            break
    for _ in range(n):
        total /= r2
    return total / r


@bare_inline
def thole(r2, parameters, last, out, start, stride):
    """B_n = (2n-1)!!/r^(2n+1) (1 - p_n(x) exp(-x)), x = a r^3, p_n by `_thole_polynomials`."""
    a = parameters[0]
    r = math.sqrt(r2)
    x = a * r2 * r
    decay = math.exp(-x)
    inverse = 1.0 / r2
    bare = 1.0 / r
    out[start] = (
        bare if x > 700.0 else -math.expm1(-x) / r + a ** (1.0 / 3.0) * (upper_gamma_two_thirds(x))
    )
    odd = 1.0
    for n in range(1, last + 1):
        bare *= odd * inverse
        odd += 2.0
        if x > 700.0:
            damped = bare
        elif x < _THOLE_SERIES:
            damped = thole_series(r2, a, n)
        else:
            p = 0.0
            for k in range(n - 1, -1, -1):
                p = p * x + _THOLE[n, k]
            damped = bare * (1.0 - p * decay)
        out[start + n * stride] = damped


@bare_inline
def reaction_field(r2, parameters, last, out, start, stride):
    """Coulomb plus k r^2 + A_m r^m + A_n r^n - C; each power gains -(m - 2j)/r^2 per link."""
    cutoff, k, a_m, m, a_n, n, shift = (
        parameters[0], parameters[1], parameters[2], parameters[3], parameters[4], parameters[5],
        parameters[6],
    )  # fmt: skip
    r = math.sqrt(r2)
    inside = r < cutoff
    inverse = 1.0 / r2
    bare = 1.0 / r
    square = k * r2
    first = a_m * r**m
    second = a_n * r**n
    out[start] = bare + square + first + second - shift if inside else 0.0
    even = 0.0
    for j in range(last):
        bare *= (even + 1.0) * inverse
        square *= (even - 2.0) * inverse
        first *= (even - m) * inverse
        second *= (even - n) * inverse
        even += 2.0
        out[start + (j + 1) * stride] = bare + square + first + second if inside else 0.0


@bare_inline
def inverse_power(r2, parameters, last, out, start, stride):
    """B_n = p (p+2) ... (p+2n-2) r^(-p-2n), times a factor."""
    p = parameters[0]
    inverse = 1.0 / r2
    b = parameters[1] * r2 ** (-0.5 * p)
    even = 0.0
    out[start] = b
    for n in range(last):
        b *= (p + even) * inverse
        even += 2.0
        out[start + (n + 1) * stride] = b


@bare_inline
def softened(r2, parameters, last, out, start, stride):
    """B_n = (-2/c^2)^n g^(n)(s)/c with s = r^2/c^2, g the series of s^(-1/2) about 1; s < 1."""
    cutoff, terms = parameters[0], int(parameters[1])
    square = cutoff * cutoff
    if r2 >= square:
        coulomb(r2, parameters, last, out, start, stride)
        return
    # the square of a great cutoff may be infinite
    u = r2 / square - 1.0
    scale = 1.0 / cutoff
    for n in range(last + 1):
        value = 0.0
        for k in range(terms - 1 - n, -1, -1):
            value = value * u + SOFTENED_TABLE[n, k]
        out[start + n * stride] = value * scale
        scale /= -square


@bare
def chain_of_one(code, r2, parameters, last, out, start, stride):
    """Write B_0 ... B_last of the kernel `code` for one pair; zeros where r2 is zero."""
    if r2 <= 0.0:
        for n in range(last + 1):
            out[start + n * stride] = 0.0
    elif code == COULOMB:
        coulomb(r2, parameters, last, out, start, stride)
    elif code == YUKAWA:
        yukawa(r2, parameters, last, out, start, stride)
    elif code == ERF:
        erf(r2, parameters, last, out, start, stride)
    elif code == ERFC:
        erfc(r2, parameters, last, out, start, stride)
    elif code == THOLE:
        thole(r2, parameters, last, out, start, stride)
    elif code == REACTION_FIELD:
        reaction_field(r2, parameters, last, out, start, stride)
    elif code == SOFTENED:
        softened(r2, parameters, last, out, start, stride)
    else:
        inverse_power(r2, parameters, last, out, start, stride)


@jit
def chain_of_many(code, parameters, distances, out):
    """Write the chain of each distance into a row of `out`."""
    flat = out.reshape(-1)
    links = out.shape[1]
    for i in range(distances.shape[0]):
        chain_of_one(code, distances[i] ** 2, parameters, links - 1, flat, i * links, 1)
