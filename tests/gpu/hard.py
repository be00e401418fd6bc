"""Plans of points that are hard, by kernels in the emulator, against float64 sums on the CPU.

python hard.py N SEED [CASE ...]     of about N points; SEED is another order of threads and blocks

Of each case: the error at every order of the field is the tolerance's, also after a rebuild; a
second evaluation, and a plan whose threads and blocks run in another order, give the same bits.
Runs in a process of its own, with blocks of a device's size; ends with status 1 if a case fails.
"""

import sys
import time
import traceback
import warnings

import emulator
import numpy as np

emulator.device_sizes()

from numba import cuda  # noqa: E402
from on_gpu import worst_order_of_all  # noqa: E402

import fmm  # noqa: E402
import multipoles as mp  # noqa: E402
from multipoles import Erf, Softened, Thole  # noqa: E402

# targets at which fields are summed on the CPU; the error there is an estimate of that at all
SAMPLES, SLACK = 400, 1.5
SINGLE, DOUBLE = np.float32, np.float64


def uniform(n, rng):
    return rng.random((n, 3))


def two_scales(n, rng):
    return np.concatenate([rng.random((n // 2, 3)), 0.3 + 1e-3 * rng.random((n - n // 2, 3))])


def clusters(n, rng):
    sizes = 10.0 ** rng.uniform(-4, -1, 20)
    which = rng.integers(0, 20, n)
    return rng.random((20, 3))[which] + sizes[which, None] * rng.standard_normal((n, 3))


def sphere(n, rng):
    x = rng.standard_normal((n, 3))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def line(n, rng):
    return rng.random((n, 1)) * np.array([1.0, 2.0, -0.5])


def one_place(n, rng):
    return np.full((n, 3), 0.3)


def half_in_one_place(n, rng):
    return np.concatenate([rng.random((n - n // 2, 3)), np.full((n // 2, 3), 0.3)])


def far_from_zero(n, rng):
    return 1e4 + rng.random((n, 3))


def flat(n, rng):
    return rng.random((n, 3)) * [1, 1, 1e-5]


def thirty_in_each_place(n, rng):
    return np.repeat(rng.random((n // 30, 3)), 30, axis=0)


def lattice(n, rng):
    m = round(n ** (1 / 3))
    return np.stack(np.meshgrid(*[np.arange(m)] * 3), axis=-1).reshape(-1, 3).astype(float)


CLOUDS = [
    uniform, two_scales, clusters, sphere, line, one_place, half_in_one_place, far_from_zero, flat,
    thirty_in_each_place, lattice,
]  # fmt: skip


def random(shape, rng):
    return rng.standard_normal(shape)


def ones(shape, rng):
    return np.ones(shape)


def alternating(shape, rng):
    """Return charges of a lattice whose far field cancels."""
    m = round(shape[0] ** (1 / 3))
    return ((-1.0) ** np.indices((m, m, m)).sum(axis=0)).reshape(shape)


def one_of_all(shape, rng):
    out = np.zeros(shape)
    out[shape[0] // 3] = 1.0
    return out


def none(shape, rng):
    return np.zeros(shape)


def large(shape, rng):
    return 1e25 * rng.standard_normal(shape)


def small(shape, rng):
    return 1e-25 * rng.standard_normal(shape)


def of_all_sizes(shape, rng):
    return rng.standard_normal(shape) * 10.0 ** rng.uniform(-6, 6, shape)


def problem(make, n, dtype=SINGLE, *, scale=1.0, targets=None, orders=(0, 1), **options):
    """Return the arguments of `check`."""
    rng = np.random.default_rng(1)
    s = (scale * make(n, rng)).astype(dtype)
    x = None if targets is None else targets(s, rng).astype(dtype)
    options.setdefault("tolerance", 1e-4)
    return s, x, orders, options


def few_common_boxes(s, rng):
    """Return targets beside the sources, but for a few."""
    aside = rng.random((len(s) // 3, 3))
    aside[:, 0] += 1.02
    return np.concatenate([aside, rng.random((20, 3))])


def systems(n, rng):
    """Return positions and systems of very different sizes, about n points in all."""
    sizes = np.unique(np.geomspace(1, max(2, n // 5), 20).astype(int))
    sizes = rng.permutation(np.append(sizes, [1, 1, 3]))
    return rng.random((sizes.sum(), 3)), np.repeat(np.arange(len(sizes)) * 2, sizes)


def of_systems(n, dtype, **options):
    x, batch = systems(n, np.random.default_rng(1))
    options |= {"source_batch": batch, "target_batch": batch, "tolerance": 1e-4}
    return x.astype(dtype), None, (0, 1), options


def cases(n):
    """Return names and arguments of `check`."""
    out = {}
    for make in CLOUDS:
        for dtype in (SINGLE, DOUBLE):
            name = f"{make.__name__} {np.dtype(dtype).name}"
            out[name] = problem(make, n, dtype)
            out[f"{name} leaves"] = problem(make, n, dtype, leaf_size=60)
    for make in (uniform, clusters):
        out[f"{make.__name__} 1e-9"] = problem(make, n, DOUBLE, tolerance=1e-9)
        for scale in (1e-6, 1e6):
            out[f"{make.__name__} of size {scale}"] = problem(make, n, scale=scale, leaf_size=100)
    for orders in ((0, 1), (2, 3), (3, 0), (1, 4)):
        named = dict(orders=orders, tolerance=1e-3)
        out[f"orders {orders}"] = problem(uniform, n // 2, **named)
        out[f"orders {orders} leaves"] = problem(uniform, n // 2, leaf_size=100, **named)
        out[f"orders {orders} float64"] = problem(clusters, n // 2, DOUBLE, leaf_size=60, **named)
    for channels in (3, 5):
        out[f"channels {channels}"] = problem(uniform, n, channels=channels)
        out[f"channels {channels} leaves"] = problem(
            clusters, n // 2, channels=channels, leaf_size=100
        )
        out[f"channels {channels} dipoles"] = problem(
            sphere, n // 2, channels=channels, leaf_size=100, orders=(1, 2)
        )
    for dtype in (SINGLE, DOUBLE):
        name = np.dtype(dtype).name
        out[f"systems {name}"] = of_systems(n, dtype)
        out[f"systems {name} leaves"] = of_systems(n, dtype, leaf_size=40)
        for leaf_size in (None, 40):
            out[f"few common boxes {name} {leaf_size}"] = problem(
                uniform, n, dtype, targets=few_common_boxes, leaf_size=leaf_size
            )
    for moments in (ones, one_of_all, none, large, small, of_all_sizes):
        named = dict(moments=moments, leaf_size=80)
        out[f"moments {moments.__name__}"] = problem(clusters, n, **named)
        out[f"moments {moments.__name__} float64"] = problem(uniform, n, DOUBLE, **named)
    for leaf_size in (None, 80):
        named = dict(moments=alternating, leaf_size=leaf_size)
        out[f"moments alternating {leaf_size}"] = problem(lattice, n, **named)
    for kernel in (Softened(0.01), Erf(100.0), Thole(1e6)):
        for orders in ((0, 1), (1, 2)):
            out[f"kernel {kernel} {orders}"] = problem(
                clusters, n // 2, leaf_size=80, kernel=kernel, orders=orders
            )
    for tolerance in (1e-2, 1e-5, 1e-6):
        out[f"tolerance {tolerance}"] = problem(clusters, n, leaf_size=100, tolerance=tolerance)
        out[f"tolerance {tolerance} leaves chosen"] = problem(sphere, n, tolerance=tolerance)
    out["tolerance 1e-12"] = problem(uniform, n, DOUBLE, tolerance=1e-12, leaf_size=100)
    out["targets far away"] = problem(
        uniform, n, targets=lambda s, rng: 300 + rng.random((len(s), 3)), leaf_size=60
    )
    for few in (1, 2, 3, 17, 100):
        out[f"few {few}"] = problem(uniform, few)
        out[f"few {few} leaves"] = problem(uniform, few, leaf_size=1)
    out["one source"] = problem(
        lambda n, rng: rng.random((1, 3)), n, targets=lambda s, rng: rng.random((3000, 3))
    )
    out["one target"] = problem(uniform, n, targets=lambda s, rng: rng.random((1, 3)))
    return out


def moments_of(s, orders, options):
    shape = (len(s), options.get("channels", 1), mp.n_components(orders[0]))
    return options.get("moments", random)(shape, np.random.default_rng(3)).astype(s.dtype)


def error(found, x, s, m, orders, options):
    """Return the largest relative error of an order, in units of the tolerance."""
    chosen = np.random.default_rng(4).choice(len(x), min(SAMPLES, len(x)), replace=False)
    batches = {}
    if "source_batch" in options:
        chosen = np.sort(chosen)
        batches = {
            "source_batch": options["source_batch"], "target_batch": options["target_batch"][chosen]
        }  # fmt: skip
    wide = [a.astype(np.float64) for a in (x[chosen], s, m)]
    if "kernel" in options:
        batches["kernel"] = options["kernel"]
    right = mp.field(*wide, orders[1], **batches)
    if not np.any(right):
        return 0.0 if not np.any(found) else np.inf
    if not np.isfinite(found).all():
        return np.nan
    off = worst_order_of_all(found.astype(np.float64), chosen, right, orders[1])
    return off / max(options["tolerance"], 4e-7 if s.dtype == SINGLE else 0.0)


def planned(s, x, orders, options):
    there = {"sources": cuda.to_device(s)}
    if x is not None:
        there["targets"] = cuda.to_device(x)
    named = {key: value for key, value in options.items() if key != "moments"}
    for key in ("source_batch", "target_batch"):
        if key in named:
            named[key] = cuda.to_device(named[key])
    return fmm.FMM(**there, source_order=orders[0], order=orders[1], **named)


def field(plan, m):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = plan.field(cuda.to_device(m)).copy_to_host()
    return found, [str(w.message) for w in caught if issubclass(w.category, RuntimeWarning)]


def check(seed, s, x, orders, options):
    """Return what is wrong with a case, and what is to be known of it."""
    m, bad, begun = moments_of(s, orders, options), [], time.perf_counter()
    with emulator.installed():
        plan = planned(s, x, orders, options)
        found, said = field(plan, m)
        report = str(plan.report())
        took = time.perf_counter() - begun
        again, _ = field(plan, m)
    here = s if x is None else x
    off = error(found, here, s, m, orders, options)
    if not off < SLACK:
        bad.append(f"error of {off:.3g} tolerances{' (said)' if said else ''}")
    if not np.array_equal(found, again):
        bad.append("a second evaluation gives other bits")
    with emulator.installed(emulator.Options(shuffled=seed)):
        other, _ = field(planned(s, x, orders, options), m)
    if not np.array_equal(found, other):
        bad.append("another order of threads gives other bits")
    moved = [None if a is None else _moved(a) for a in (s, x)]
    with emulator.installed():
        plan.rebuild(*(None if a is None else cuda.to_device(a) for a in moved))
        found, said_then = field(plan, m)
    here = moved[0] if x is None else moved[1]
    then = error(found, here, moved[0], m, orders, options)
    if not then < SLACK:
        bad.append(f"error of {then:.3g} tolerances after rebuild{' (said)' if said_then else ''}")
    facts = f"{off:.2f} {then:.2f} tolerances, {took:.1f} s, leaf {plan._layout.geometry.leaf_size}"
    far = plan._layout.geometry.has_far_field
    return bad, f"{facts}, {'tree' if far else 'direct'} {said or ''} {said_then or ''}", report


def _moved(x):
    size = np.ptp(x, axis=0).max()
    step = 1e-3 * size * np.random.default_rng(5).standard_normal(x.shape)
    return (x + step).astype(x.dtype)


def main():
    """Check all cases, or those whose names begin with one of those given."""
    n, seed, names = int(sys.argv[1]), int(sys.argv[2]), tuple(sys.argv[3:])
    failed = 0
    for name, arguments in cases(n).items():
        if names and not name.startswith(names):
            continue
        begun = time.perf_counter()
        try:
            bad, facts, report = check(seed, *arguments)
        except Exception:
            bad, facts, report = [traceback.format_exc()], "", ""
        failed += bool(bad)
        spent = time.perf_counter() - begun
        print(f"{name}: {'; '.join(bad) or 'right'} [{facts}; {spent:.0f} s]", flush=True)
        if bad and report:
            print(report, flush=True)
    raise SystemExit(bool(failed))


if __name__ == "__main__":
    main()
