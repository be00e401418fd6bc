"""Far and near field on the GPU, or in the simulator, against those of the CPU."""

from types import SimpleNamespace

import numpy as np
import pytest

import multipoles as mp
from fmm import near
from fmm.far import driver, harmonics, translations
from fmm.tree.curve import sort_points
from fmm.tree.geometry import Geometry
from fmm.tree.lists import shifts
from multipoles import indexing

pytest.importorskip("numba.cuda")
from fmm.cuda import driver as driver_cuda
from fmm.cuda import near as near_cuda
from fmm.cuda import products
from fmm.cuda import translations as translations_cuda
from fmm.cuda.staging import DEPTH
from multipoles.cuda.device import NumbaSpace
from multipoles.cuda.direct import fill

pytestmark = pytest.mark.cuda

SPACE = NumbaSpace()
DEGREE = 2


class Uploaded:
    """A geometry on the device, which counts as another than all others."""

    def __init__(self, **parts):
        vars(self).update(parts)


def uploaded(geometry):
    """Return a geometry of the CPU with its arrays on the device."""

    def there(thing):
        return SPACE.upload(thing) if isinstance(thing, np.ndarray) else thing

    def occupied(ranges):
        return np.flatnonzero((geometry.tree.n_children == 0) & (ranges[:, 1] > ranges[:, 0]))

    tree = {name: there(array) for name, array in vars(geometry.tree).items()}
    tree["level_starts"] = geometry.tree.level_starts
    lists = {name: there(array) for name, array in vars(geometry.lists).items()}
    return Uploaded(
        n_across=geometry.n_across,
        tree=SimpleNamespace(**tree),
        lists=SimpleNamespace(**lists),
        source_leaves=there(occupied(geometry.tree.source_range)),
        target_leaves=there(occupied(geometry.tree.target_range)),
        targets=there(geometry.targets),
        sources=there(geometry.sources),
    )


@pytest.fixture(scope="module")
def geometry():
    """Even and crowded points: all kinds of lists occur."""
    rng = np.random.default_rng(3)
    x = np.concatenate([rng.random((16, 3)), 0.4 + 0.03 * rng.random((12, 3))])
    points = sort_points(x, x)
    ordered = x[points.source_permutation]
    found = Geometry(points, ordered, ordered, 4, 2)
    for kind in ("m2l_targets", "m2p_targets", "p2l_targets"):
        assert len(getattr(found.lists, kind)), kind
    return found


class Steps:
    """The same state on both machines, and a comparison after each step."""

    def __init__(self, geometry, source_order, order, channels, dtype):
        rng = np.random.default_rng(5)
        self.dtype = np.dtype(dtype)
        n_levels = len(geometry.tree.level_starts) - 1
        degrees = (DEGREE,) * n_levels
        args = degrees, source_order, order, self.dtype
        self.cpu = driver.HostFarField(geometry, *args)
        self.gpu = driver_cuda.DeviceFarField(uploaded(geometry), *args, SPACE)
        self.channels, self.n = channels, len(geometry.tree.parent)
        shape = (len(geometry.sources), channels, harmonics.n_harmonics(source_order))
        self.moments = rng.normal(size=shape)
        self.there = SPACE.upload(self.moments.astype(dtype)).reshape(-1)

    def state(self):
        """Return random expansions, as they lie on the CPU and on the GPU."""
        rng, size = np.random.default_rng(6), harmonics.n_harmonics(DEGREE)
        on_cpu = np.zeros((self.n + 1, self.channels, self.cpu.length), self.dtype)
        on_gpu = np.zeros((self.n, self.channels, self.gpu.length), self.dtype)
        values = rng.normal(size=(self.n, self.channels, size))
        on_cpu[: self.n, :, :size] = on_gpu[..., :size] = values
        zeros = np.zeros(self.channels * self.gpu.length), np.zeros(DEPTH)
        flat = np.concatenate([zeros[0], on_gpu.reshape(-1), zeros[1]]).astype(self.dtype)
        return on_cpu.reshape(-1), SPACE.upload(flat)

    def boxes(self, with_zeros):
        """Return the expansions of boxes, behind which and before which there are zeros."""
        row = self.channels * self.gpu.length
        return with_zeros[row : row * (self.n + 1)]

    def there_of(self, expansions):
        """Return expansions of boxes (n, channels, harmonics) on the host."""
        size = harmonics.n_harmonics(DEGREE)
        return SPACE.download(expansions).reshape(self.n, self.channels, -1)[..., :size]

    def compare(self, on_cpu, with_zeros):
        size = harmonics.n_harmonics(DEGREE)
        wanted = on_cpu.reshape(self.n + 1, self.channels, -1)[: self.n, :, :size]
        self.close(self.there_of(self.boxes(with_zeros)), wanted)

    def close(self, found, wanted):
        tolerance = 1e-12 if self.dtype == np.float64 else 2e-5
        assert np.abs(found - wanted).max() <= tolerance * np.abs(wanted).max()
        assert np.abs(wanted).max() > 0


@pytest.mark.parametrize(
    "source_order, order, channels, dtype",
    [(0, 1, 2, np.float32), (1, 2, 1, np.float64), (DEGREE + 1, DEGREE + 1, 1, np.float64)],
)
def test_steps_between_points_and_expansions(geometry, source_order, order, channels, dtype):
    steps = Steps(geometry, source_order, order, channels, dtype)
    for name in ("_form", "_form_locals"):
        on_cpu, on_gpu = steps.state()
        getattr(steps.cpu, name)(steps.moments, on_cpu)
        getattr(steps.gpu, name)(steps.there, channels, steps.boxes(on_gpu))
        steps.compare(on_cpu, on_gpu)
    shape = (len(geometry.targets), channels, harmonics.n_harmonics(order))
    for name in ("_evaluate", "_evaluate_multipoles"):
        on_cpu, on_gpu = steps.state()
        field, there = np.zeros(shape), fill(SPACE, SPACE.empty(shape, dtype), 0.0)
        getattr(steps.cpu, name)(on_cpu, field)
        getattr(steps.gpu, name)(channels, steps.boxes(on_gpu), there.reshape(-1))
        steps.close(SPACE.download(there), field)


@pytest.mark.parametrize("channels, dtype", [(1, np.float32), (2, np.float64)])
def test_steps_between_expansions(geometry, channels, dtype, monkeypatch):
    # all levels, of which an evaluation leaves out those whose expansions are not used
    for name in ("_first_used", "_first_sent"):
        monkeypatch.setattr(driver_cuda.DeviceFarField, name, 0)
    steps = Steps(geometry, 0, 1, channels, dtype)
    on_cpu, on_gpu = steps.state()
    steps.cpu._coarsen(channels, on_cpu)
    steps.gpu._coarsen(channels, on_gpu)
    steps.compare(on_cpu, on_gpu)
    on_cpu, on_gpu = steps.state()
    steps.cpu._refine(channels, on_cpu)
    steps.gpu._refine(channels, steps.boxes(on_gpu))
    steps.compare(on_cpu, on_gpu)


def transferred(geometry, multipoles, degree):
    """Return the local expansions from multipoles (n_boxes, channels, harmonics), pair by pair."""
    lists, out = geometry.lists, np.zeros_like(multipoles)
    for code, shift in enumerate(shifts()):
        for pair in range(lists.m2l_starts[code], lists.m2l_starts[code + 1]):
            octant = int((shift < 0) @ (4, 2, 1))
            signs = translations.reflection(octant, degree, np.dtype(float))[: out.shape[2]]
            matrix = translations.transfer_matrix(tuple(np.abs(shift).tolist()), degree)
            sent = multipoles[lists.m2l_sources[pair]] * signs
            out[lists.m2l_targets[pair]] += sent @ matrix.T * signs
    return out


@pytest.mark.parametrize("parts, channels, dtype", [(1, 1, np.float64), (3, 2, np.float32)])
def test_multipole_to_local(geometry, parts, channels, dtype, monkeypatch):
    # not the CPU's, which cuts distant translations short
    monkeypatch.setattr(products, "parts_for", lambda warps: parts)
    steps = Steps(geometry, 0, 1, channels, dtype)
    _, multipoles = steps.state()
    _, before = steps.state()
    locals_ = steps.boxes(before)
    steps.gpu._transfer(channels, multipoles, locals_)
    wanted = transferred(geometry, steps.there_of(steps.boxes(multipoles)), DEGREE)
    steps.close(steps.there_of(locals_) - steps.there_of(steps.boxes(multipoles)), wanted)


def test_levels_with_few_boxes_are_translated_together(geometry, monkeypatch):
    far = Steps(geometry, 0, 1, 1, np.float32).gpu
    far.degrees = tuple(range(len(far.degrees), 0, -1))
    first = far._with_pairs[0]
    assert [degree for _, degree in far._columns] == [far.degrees[first]]
    monkeypatch.setattr(driver_cuda, "_FEW", 0)
    del far._columns
    wanted = [far.degrees[level] for level in far._with_pairs]
    assert [degree for _, degree in far._columns] == wanted and len(wanted) > 1


@pytest.mark.parametrize("length", [4, 28, 400])
def test_the_compiler_knows_how_many_threads_share_registers(length):
    """More than 256 threads cannot have all that a thread may take."""
    _, threads = translations_cuda.grid_of(10, 1, length)
    for kernel in (translations_cuda.coarsen(), translations_cuda.refine()):
        assert kernel.bounds is not None and kernel.bounds[0] >= np.prod(threads)


@pytest.mark.parametrize(
    "source_order, order, channels, dtype, kernel",
    [
        (0, 1, 1, np.float32, mp.Coulomb()),
        (1, 2, 2, np.float64, mp.Coulomb()),
        (2, 3, 1, np.float32, mp.Coulomb()),
        (1, 1, 1, np.float64, mp.Erf(3.0)),
        (4, 3, 1, np.float64, mp.Coulomb()),
    ],
)
def test_near_field(geometry, source_order, order, channels, dtype, kernel):
    rng = np.random.default_rng(8)
    n = len(geometry.sources)
    moments = rng.normal(size=(n, channels, indexing.n_components(source_order))).astype(dtype)
    targets, sources = geometry.points(np.dtype(dtype))
    wanted = np.zeros((n, channels, indexing.n_components(order)), dtype)
    reach = kernel.coulomb_beyond(1e-16, source_order + order)
    near.near_field(
        targets, sources, moments, order, geometry.near, wanted, kernel=kernel, reach=reach
    )
    out = SPACE.empty(wanted.shape, dtype)
    there = [SPACE.upload(array) for array in (targets, sources, moments)]
    leaves = [SPACE.upload(array) for array in geometry.near]
    near_cuda.near_field(SPACE, *there, order, *leaves, out, kernel=kernel)
    found = SPACE.download(out)
    tolerance = 1e-12 if dtype == np.float64 else 2e-5
    for rank in range(order + 1):
        own = indexing.order_slice(rank)
        error = np.abs(found[..., own] - wanted[..., own]).max()
        assert error <= tolerance * np.abs(wanted[..., own]).max()
