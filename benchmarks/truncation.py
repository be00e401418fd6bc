"""Root mean square error of truncated translations: the table in fmm/far/truncation.

    python benchmarks/truncation.py

prints one line per shift between boxes: a, b, c, d of the fit

    log10 E = a - b p - c log10(p + 1) - d / (p + 1)

of the error of 1/r between points spread evenly in two unit boxes, for expansions of degree p. The
mean is taken by Gauss-Legendre quadrature, since corners matter and random points seldom meet them.
"""

import itertools

import numpy as np

from fmm.far import harmonics

TOP = 44
NODES = 12
FLOOR = 3e-14


def main() -> None:
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    points = np.array(list(itertools.product(nodes / 2, repeat=3)))
    weight = np.prod(list(itertools.product(weights / 2, repeat=3)), axis=1)
    h = harmonics.regular(points, TOP)
    shifts = [s for s in itertools.product(range(5), repeat=3) if s[0] >= s[1] >= s[2] and s[0] > 1]
    worst = 0.0
    for shift in shifts:
        error = np.array(list(_errors(np.array(shift, float), points, weight, h)))
        good = error > FLOOR
        good[0] = False
        p = np.arange(TOP + 1)[good]
        terms = np.stack([np.ones(len(p)), -p, -np.log10(p + 1), -1 / (p + 1)], axis=1)
        fit = np.linalg.lstsq(terms, np.log10(error[good]), rcond=None)[0]
        worst = max(worst, np.abs(terms @ fit - np.log10(error[good])).max())
        print(f"    {shift}: ({', '.join(f'{c:.3f}' for c in fit)}),")
    print(f"# largest deviation of log10: {worst:.3f}")


def _errors(shift, points, weight, h):
    size = harmonics.n_harmonics(TOP)
    matrix = np.empty((size, size))
    terms = harmonics.transfer_terms(TOP, TOP)
    harmonics.dense(terms, harmonics.irregular(shift, 2 * TOP), matrix)
    rest = 1 / np.linalg.norm(shift + points[:, None] - points[None], axis=-1)
    for p in range(TOP + 1):
        new, all_ = slice(p * p, (p + 1) ** 2), slice((p + 1) ** 2)
        rest -= h[:, new] @ (matrix[new, all_] @ h[:, all_].T)
        rest -= h[:, : p * p] @ (matrix[: p * p, new] @ h[:, new].T)
        yield np.sqrt(weight @ rest**2 @ weight)


if __name__ == "__main__":
    main()
