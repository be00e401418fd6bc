"""Derivatives of a multipole's potential, as plain arithmetic (see `multipoles.compiled.emit`).

The trace of a moment does no work under 1/r, and the derivatives have no trace either. So both are
kept as symmetric traceless tensors: order l has 2l + 1 independent components, those with z-power
at most one (`components`); the others follow from zz = -xx - yy.

With P_l(r) the harmonic polynomial of the moments of order l (r from source to target) and the
chain g_n of 1/r, for which dg_n/dr_i = r_i g_{n+1}, the potential is sum_l g_l P_l(r). Its d-th
derivative along t, divided by d!, is by the product rule

    sum_k (r.t)^n / n! W_kn(t),   n = d - k,   W_kn(t) = sum_l g_{l+n} (t.grad)^k P_l(r) / k!

plus terms with a factor t.t, which the traceless derivatives do not need: polynomials in t are
taken modulo t.t, again with z-powers at most one. A Horner scheme sums over k.

Tensors and polynomials are dicts by multi-index.
"""

from collections.abc import Callable, Iterator
from typing import Any

from multipoles.compiled.emit import Counted

Index = tuple[int, int, int]
Tensor = dict[Index, Any]
Triple = tuple[Any, Any, Any]


def components(order: int) -> list[Index]:
    """Return the multi-indices of `order` with z-power at most one, (order, 0, 0) first."""
    return [(order - c - b, b, c) for c in (0, 1) for b in range(order - c + 1)]


def raised(order: int) -> list[Index]:
    """Return those components whose coefficient in (t.grad)^k P / k! is not the derivative's."""
    return [] if order < 2 else [g for g in components(order) if max(g) > 1]


def has_products(source_order: int, order: int) -> bool:
    """Tell whether moments and derivatives mix; else both are products with powers of r."""
    return source_order > 0 and order > 0


def row_names(source_order: int, order: int) -> list[tuple[int, Index, bool]]:
    """Return order, component and whether folded, of each row of moments that `add_field` reads."""
    rows = [(n, g, False) for n in range(source_order + 1) for g in components(n)]
    if has_products(source_order, order):
        top = min(source_order, order)
        rows += [(n, g, True) for n in range(2, top + 1) for g in raised(n)]
    return rows


def sum_names(order: int) -> list[Index]:
    """Return the component of each sum of `add_field`."""
    return [g for n in range(order + 1) for g in components(n)]


def times(p: Tensor, r: Triple, onto: Tensor) -> Tensor:
    """Return the polynomial p(t) r.t modulo t.t, added to `onto`."""
    out = dict(onto)

    def add(index: Index, value: Any) -> None:
        out[index] = out[index] + value if index in out else value

    for (a, b, c), value in p.items():
        add((a + 1, b, c), value * r[0])
        add((a, b + 1, c), value * r[1])
        if c == 0:
            add((a, b, 1), value * r[2])
    for (a, b, c), value in p.items():
        if c == 1:
            fallen = value * r[2]
            out[a + 2, b, 0] = out[a + 2, b, 0] - fallen
            out[a, b + 2, 0] = out[a, b + 2, 0] - fallen
    return out


def contract(tensor: Tensor, rank: int, r: Triple) -> Tensor:
    """Return the traceless tensor of `rank` that is `tensor`, one rank higher, times r."""
    out = {}
    for a, b, c in components(rank):
        value = tensor[a + 1, b, c] * r[0] + tensor[a, b + 1, c] * r[1]
        if c == 0:
            out[a, b, c] = value + tensor[a, b, 1] * r[2]
        else:
            out[a, b, c] = value - (tensor[a + 2, b, 0] + tensor[a, b + 2, 0]) * r[2]
    return out


def fold(tensor: Tensor, rank: int) -> Tensor:
    """Return sum_gamma A_gamma t^gamma / gamma! of a traceless tensor A, modulo t.t."""
    if rank < 2:
        return tensor
    if rank == 2:
        xx, yy = tensor[2, 0, 0], tensor[0, 2, 0]
        return tensor | {(2, 0, 0): xx + yy * 0.5, (0, 2, 0): yy + xx * 0.5}
    out = {}
    for to, terms in fold_terms(rank).items():
        value = None
        for index, factor in terms.items():
            term = tensor[index] if factor == 1.0 else tensor[index] * factor
            value = term if value is None else value + term
        out[to] = value
    return out


def fold_terms(rank: int) -> dict[Index, dict[Index, float]]:
    """Return the coefficients of `fold`: by component of the result, those of the argument."""
    out: dict[Index, dict[Index, float]] = {}
    for gamma in _all(rank):
        weight = 1.0 / (_factorial(gamma[0]) * _factorial(gamma[1]) * _factorial(gamma[2]))
        for to, u in reduced(gamma).items():
            for source, v in reduced(gamma).items():
                row = out.setdefault(to, {})
                row[source] = row.get(source, 0.0) + weight * u * v
    return {to: {k: v for k, v in row.items() if v} for to, row in out.items()}


def reduced(gamma: Index) -> dict[Index, float]:
    """Return t^gamma modulo t.t by components: zz is -xx - yy. Also A_gamma of a traceless A."""
    a, b, c = gamma
    if c < 2:
        return {gamma: 1.0}
    out: dict[Index, float] = {}
    for lower in ((a + 2, b, c - 2), (a, b + 2, c - 2)):
        for index, value in reduced(lower).items():
            out[index] = out.get(index, 0.0) - value
    return out


def _all(order: int) -> Iterator[Index]:
    return ((a, b, order - a - b) for a in range(order + 1) for b in range(order - a + 1))


def _factorial(n: int) -> int:
    return 1 if n < 2 else n * _factorial(n - 1)


# --- what all channels of a pair share ------------------------------------------------------------


def geometry(source_order: int, order: int, r: Triple, inverse: Any, scaled: bool) -> Any:
    """Return what `add_field` needs of a pair; `inverse` is 1/r.

    Without products: per order n the polynomial (r.t)^n and the factor 1/r^(2n+1), which is None
    where it is multiplied in already (`scaled`: worth it for several channels).
    """
    top = source_order + order
    if has_products(source_order, order):
        return fractions(r, max(source_order, order)), coulomb_chain(inverse, top)
    shared = []
    factor, square = inverse, inverse * inverse if top else None
    power: Tensor = {(0, 0, 0): 1.0}
    for n in range(top + 1):
        if n == 1:
            power = {(1, 0, 0): r[0], (0, 1, 0): r[1], (0, 0, 1): r[2]}
        elif n == 2:
            power = _square(r)
        elif n > 2:
            power = times(power, r, {})
        factor = factor * square if n else factor
        values = [power[index] for index in components(n)]
        if scaled:
            shared.append(([factor * value for value in values], None))
        else:
            shared.append((values, factor))
    return shared


def _square(r: Triple) -> Tensor:
    x, y, z = r
    zz, twice = z * z, z + z
    return {
        (2, 0, 0): x * x - zz,
        (1, 1, 0): (x + x) * y,
        (0, 2, 0): y * y - zz,
        (1, 0, 1): x * twice,
        (0, 1, 1): y * twice,
    }


def fractions(r: Triple, top: int) -> list[Triple]:
    """Return r / j for j = 1 ... top, at place j."""
    x, y, z = r
    return [r, r, *((x * (1.0 / j), y * (1.0 / j), z * (1.0 / j)) for j in range(2, top + 1))]


def coulomb_chain(inverse: Any, top: int) -> list[Any]:
    """Return g_0 ... g_top: g_{n+1} = -(2n + 1) g_n / r^2, the factors by additions."""
    factor = -(inverse * inverse)
    step = factor + factor
    chain = [inverse]
    for _ in range(top):
        chain.append(chain[-1] * factor)
        factor = factor + step
    return chain


def add_field(
    source_order: int, order: int, shared: Any, rows: list[Any], sums: list[Any]
) -> list[Any]:
    """Return the sums with one source added: moments by `row_names`, sums by `sum_names`."""
    if has_products(source_order, order):
        r, g = shared
        return add_products(order, r, [(polynomials(source_order, order, r, rows), g)], sums)
    if source_order > 0:
        return [_add_potential(source_order, shared, rows, sums[0])]
    out = iter(sums)
    new = []
    for values, factor in shared:
        weight = rows[0] if factor is None else rows[0] * factor
        new += [next(out) + weight * value for value in values]
    return new


def _add_potential(source_order: int, shared: Any, rows: list[Any], total: Any) -> Any:
    place = 0
    for n in range(source_order + 1):
        values, factor = shared[n]
        part = total if factor is None else None
        for value in values:
            term = rows[place] * value
            part = term if part is None else part + term
            place += 1
        total = part if factor is None else total + factor * part
    return total


def add_products(
    order: int, r: list[Triple], terms: list[tuple[list[Any], list[Any]]], sums: list[Any]
) -> list[Any]:
    """Return the sums with W_kn added, for each of several moments: `polynomials` and a chain."""
    named = dict(zip(sum_names(order), sums, strict=True))
    for d in range(order + 1):
        p: Tensor = {}
        for k in range(d + 1):
            n = d - k
            # the last step of the Horner scheme adds to the sums at once
            onto = {index: named[index] for index in components(d)} if n == 0 else {}
            p = times(p, r[n + 1], onto) if k else onto
            for w, g in terms:
                for degree, coefficients in enumerate(w[k] if k < len(w) else [], start=k):
                    for index, value in coefficients.items():
                        term = value * g[degree + n]
                        p[index] = p[index] + term if index in p else term
        named |= p
    return list(named.values())


def polynomials(
    source_order: int, order: int, r: list[Triple], rows: list[Any]
) -> list[list[Tensor]]:
    """Return (t.grad)^k P_l / k! for k up to both orders and l = k ... source_order."""
    named = dict(zip(row_names(source_order, order), rows, strict=True))
    top = min(source_order, order)
    out: list[list[Tensor]] = [[] for _ in range(top + 1)]
    for degree in range(source_order + 1):
        tensor = {index: named[degree, index, False] for index in components(degree)}
        if degree <= top:
            folded = {i: named.get((degree, i, True), tensor[i]) for i in tensor}
            out[degree].append(folded)
        for k in range(degree - 1, -1, -1):
            tensor = contract(tensor, k, r[degree - k])
            if k <= top:
                out[k].append(fold(tensor, k))
    return out


# --- cost -----------------------------------------------------------------------------------------


def n_products(source_order: int, order: int, scaled: bool) -> tuple[int, int]:
    """Return the number of products for the geometry of a pair, and for each channel."""

    def run(number: Any) -> Iterator[None]:
        shared = geometry(source_order, order, (number,) * 3, number, scaled)
        yield
        rows = [number] * len(row_names(source_order, order))
        add_field(source_order, order, shared, rows, [number] * len(sum_names(order)))

    return count_products(run)


def count_products(run: Callable[[Any], Iterator[None]]) -> tuple[int, int]:
    """Return the products of a computation on a number, before and after it yields."""
    number = Counted()
    steps = run(number)
    next(steps)
    once = number.products
    for _ in steps:
        pass
    return once, number.products - once
