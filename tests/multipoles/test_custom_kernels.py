"""Radial kernels that a user writes: one class, used like those of the package."""

import copy
import math
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest

import fmm
import multipoles as mp
from multipoles.compiled import native
from multipoles.radial.base import CUSTOM, KINDS


@dataclass(frozen=True)
class Screened(mp.Kernel):
    """Yukawa's function once more: every sum has a twin."""

    kappa: float

    @staticmethod
    def write_chain(r2, parameters, last, out):
        kappa = parameters[0]
        r = math.sqrt(r2)
        out[0] = math.exp(-kappa * r) / r
        if last > 0:
            out[1] = (1.0 + kappa * r) * out[0] / r2
        odd = 3.0
        for n in range(1, last):
            out[n + 1] = (odd * out[n] + kappa * kappa * out[n - 1]) / r2
            odd += 2.0


@dataclass(frozen=True)
class Gaussian(mp.Kernel):
    """A kernel whose unit is not that of 1/r."""

    width: float

    @staticmethod
    def write_chain(r2, parameters, last, out):
        inverse = 1.0 / parameters[0] ** 2
        out[0] = math.exp(-r2 * inverse)
        for n in range(last):
            out[n + 1] = 2.0 * inverse * out[n]


@dataclass(frozen=True)
class Inside(mp.Kernel):
    """`Softened` of four terms: 1/r from a cutoff on."""

    cutoff: float

    @staticmethod
    def write_chain(r2, parameters, last, out):
        c2 = parameters[0] ** 2
        if r2 >= c2:
            out[0] = 1.0 / math.sqrt(r2)
            for n in range(last):
                out[n + 1] = (2 * n + 1) * out[n] / r2
            return
        u, scale = r2 / c2 - 1.0, 1.0 / parameters[0]
        series = (1.0, -1.0 / 2, 3.0 / 8, -5.0 / 16)
        for n in range(last + 1):
            out[n] = 0.0
            for k in range(3, n - 1, -1):
                ways = 1.0
                for j in range(n):
                    ways *= k - j
                out[n] += scale * ways * series[k] * u ** (k - n)
            scale *= -2.0 / c2

    def coulomb_beyond(self, tolerance, links):
        return self.cutoff


def twin(name):
    """A class of the same name elsewhere, with half the function."""

    @staticmethod
    def write_chain(r2, parameters, last, out):
        for n in range(last + 1):
            out[n] = 0.5

    return type(name, (mp.Kernel,), {"write_chain": write_chain, "__module__": "elsewhere"})


@pytest.fixture
def rng():
    return np.random.default_rng(11)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("source_order, order", [(0, 1), (2, 2), (3, 4)])
def test_fields_are_those_of_the_twin(rng, dtype, source_order, order):
    x, s = (rng.uniform(0, 4, (n, 3)).astype(dtype) for n in (21, 34))
    moments = rng.standard_normal((34, 2, mp.n_components(source_order))).astype(dtype)
    batches = np.arange(21) // 8, np.arange(34) // 13
    for more in (
        {},
        {"pairs": np.argwhere(rng.random((21, 34)) < 0.3)},
        {"target_batch": batches[0], "source_batch": batches[1]},
    ):
        phi = mp.field(x, s, moments, order, Screened(0.8), **more)
        rtol = 1e-12 if dtype == np.float64 else 1e-5
        for wanted in (
            mp.field(x, s, moments, order, mp.Yukawa(0.8), **more),
            mp.reference.field(x, s, moments, order, Screened(0.8), **more),
        ):
            np.testing.assert_allclose(phi, wanted, rtol, rtol * np.abs(wanted).max())


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_energies_and_forces(rng, order):
    x, moments = rng.uniform(0, 4, (30, 3)), rng.standard_normal((30, mp.n_components(order)))
    scale = np.array([[0, 3], [7, 8]]), np.array([0.5, 0.0])
    found = mp.energy_forces(x, moments, Screened(0.8), scale)
    for wanted in (
        mp.energy_forces(x, moments, mp.Yukawa(0.8), scale),
        mp.reference.energy_forces(x, moments, Screened(0.8), scale),
    ):
        for a, b in zip(found, wanted, strict=True):
            np.testing.assert_allclose(a, b, 1e-10, 1e-10 * np.abs(b).max())
    assert mp.energy(x, moments, Screened(0.8), scale) == pytest.approx(found[0], rel=1e-12)


def test_units_follow_by_themselves(rng):
    """f'(c r) = f(r)/c for any f, so that sums far from one are taken in other units."""
    r = np.array([0.2, 1.7, 4.9])
    for kernel in (Gaussian(2.0), Screened(0.8)):
        scaled = kernel.scaled(8.0)
        expected = kernel.chain(r, 6) * 8.0 ** -(2.0 * np.arange(7) + 1)
        np.testing.assert_allclose(scaled.chain(8 * r, 6), expected, rtol=1e-13)
        assert scaled.scaled(1 / 8) == kernel
        with pytest.raises(ValueError, match="leave the range"):
            kernel.scaled(2.0**900).scaled(2.0**900)
    # squares of these distances are no numbers of float32
    x = (rng.uniform(0, 4, (9, 3)) * 1e-18).astype(np.float32)
    moments = (rng.standard_normal((9, 4)) * 1e-30).astype(np.float32)
    for kernel, same in ((Screened(0.8e18), mp.Yukawa(0.8e18)),):
        phi = mp.field(x, x, moments, 0, kernel)
        assert np.isfinite(phi).all()
        np.testing.assert_allclose(phi, mp.field(x, x, moments, 0, same), rtol=1e-5)


def test_fmm_takes_those_that_say_where_they_are_coulomb(rng):
    x, moments = rng.random((3000, 3)), rng.standard_normal((3000, 4))
    phi = fmm.field(x, x, moments, 0, 1e-5, Inside(0.1))
    wanted = mp.field(x, x, moments, 0, mp.Softened(0.1, 4))
    assert np.linalg.norm(phi[:, 0] - wanted[:, 0]) < 1e-5 * np.linalg.norm(wanted[:, 0])
    with pytest.raises(ValueError, match="1/r beyond some distance"):
        fmm.FMM(x, kernel=Screened(0.8))


def test_copies_hash_and_compare():
    kernel = Gaussian(2.0)
    kernel.chain(1.0, 2)  # has an address now
    assert pickle.loads(pickle.dumps(kernel)) == kernel == copy.deepcopy(kernel)
    assert b"parameter_array" not in pickle.dumps(kernel)
    assert len({kernel, Gaussian(2), Gaussian(3)}) == 2 and kernel != Screened(2.0)
    assert repr(kernel) == "Gaussian(width=2.0)"
    assert pickle.loads(pickle.dumps(mp.Erf(0.3))) == mp.Erf(0.3)


def test_classes_of_one_name_are_not_mixed_up():
    others = [twin("Gaussian"), twin("Yukawa")]
    assert len({Gaussian.code, *(other.code for other in others)}) == 3
    points, moments = np.eye(3), np.ones((3, 1))
    for other in others:
        kernel = dataclass(frozen=True)(other)()
        assert (kernel.chain(1.0, 2) == 0.5).all()
        assert (mp.reference.field(points, points, moments, 0, kernel) == 1.0).all()
        assert (mp.field(points, points, moments, 0, kernel) == 1.0).all()
    assert Gaussian(2.0).chain(1.0, 0)[0] == pytest.approx(math.exp(-0.25))


def test_threads_compile_a_class_once(monkeypatch):
    compiled = []
    make = native._cfunc
    monkeypatch.setattr(native, "_cfunc", lambda *a, **k: compiled.append(0) or make(*a, **k))

    def work(i):
        kind = type("Same", (mp.Kernel,), {"write_chain": Gaussian.__dict__["write_chain"]})
        dataclass(frozen=True)(kind)
        return kind.code, Shared(1.0 + i).chain(1.0, 0)[0]

    @dataclass(frozen=True)
    class Shared(mp.Kernel):
        width: float

        @staticmethod
        def write_chain(r2, parameters, last, out):
            for n in range(last + 1):
                out[n] = parameters[0]

    with ThreadPoolExecutor(8) as pool:
        codes, values = zip(*pool.map(work, range(24)), strict=True)
    assert len(set(codes)) == 24 and list(values) == [1.0 + i for i in range(24)]
    assert len(compiled) == 1


OTHER_PROCESS = """
import pickle, sys
import multipoles as mp
sys.path.insert(0, {folder!r})
import first  # takes the code that was another's there
kernel = pickle.loads(bytes.fromhex({pickled!r}))
print(kernel.chain(1.0, 0)[0])
"""

CLASSES = """
from dataclasses import dataclass
import multipoles as mp

@dataclass(frozen=True)
class {name}(mp.Kernel):
    value: float

    @staticmethod
    def write_chain(r2, parameters, last, out):
        for n in range(last + 1):
            out[n] = {factor} * parameters[0]
"""


def test_a_pickle_is_right_in_another_process(tmp_path, monkeypatch):
    for module, name, factor in (("first", "First", 2.0), ("second", "Second", 3.0)):
        (tmp_path / f"{module}.py").write_text(CLASSES.format(name=name, factor=factor))
    monkeypatch.syspath_prepend(tmp_path)
    import second  # type: ignore[import-not-found]

    kernel = second.Second(7.0)
    assert kernel.chain(1.0, 0)[0] == 21.0
    script = OTHER_PROCESS.format(folder=str(tmp_path), pickled=pickle.dumps(kernel).hex())
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.stdout.strip() == "21.0", run.stderr


# --- wrong input ----------------------------------------------------------------------------------


def made(write_chain, **more):
    """Return a kernel with a function and one parameter, 2."""
    more |= {"__annotations__": {"width": float}, "width": 2.0}
    return dataclass(frozen=True)(
        type("Mine", (mp.Kernel,), more | {"write_chain": staticmethod(write_chain)})
    )()


def wrong_factor(r2, parameters, last, out):
    out[0] = math.exp(-r2 * parameters[0])
    for n in range(last):
        out[n + 1] = (2 if n != 2 else 1.9) * parameters[0] * out[n]


def too_far(r2, parameters, last, out):
    out[0] = out[1] = 1.0


def unwritten(r2, parameters, last, out):
    out[0] = 1.0


def fails(r2, parameters, last, out):
    if r2 > 4.0:
        raise ValueError("too far")
    for n in range(last + 1):
        out[n] = 0.0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_a_check_says():
    assert mp.check_kernel(Gaussian(2.0), f=lambda r: math.exp(-r * r / 4)) < 1e-12
    for kernel in (Screened(1.3), Inside(3.0), mp.ReactionField(4.0), mp.Softened(2.0), mp.Erf(2)):
        assert mp.check_kernel(kernel, links=8) < 1e-9
    with pytest.raises(ValueError, match=r"Mine\(width=2.0\): at r = 0.1 link 3 is .* link 2 is"):
        mp.check_kernel(made(wrong_factor))
    with pytest.raises(ValueError, match=r"link 0 is .* but f is"):
        mp.check_kernel(Gaussian(2.0), f=lambda r: math.exp(-r * r))
    with pytest.raises(ValueError, match=r"last = 0 write_chain .* writes beyond out\[0\]"):
        mp.check_kernel(made(too_far))
    with pytest.raises(ValueError, match="link 1 is nan"):
        mp.check_kernel(made(unwritten))
    with pytest.raises(ValueError, match=r"write_chain failed at r = 2.*too far"):
        mp.check_kernel(made(fails))
    early = made(Gaussian.write_chain, coulomb_beyond=lambda self, tolerance, links: 5.0)
    with pytest.raises(ValueError, match="`coulomb_beyond` says"):
        mp.check_kernel(early)
    with pytest.raises(ValueError, match="distances > 0"):
        mp.check_kernel(mp.Coulomb(), r=[0.0, 1.0])


def test_what_is_not_written_is_not_a_number():
    assert np.isnan(made(unwritten).chain(1.0, 2)[1:]).all()


def test_functions_that_cannot_be_compiled():
    def of_dicts(r2, parameters, last, out):
        out[0] = parameters.get("width")

    def of_two(r2, out):
        out[0] = r2

    for function in (of_dicts, of_two):
        with pytest.raises(TypeError, match="Numba cannot compile"):
            made(function).chain(1.0, 2)


def test_classes_that_are_none():
    undecorated = type(
        "Mine", (mp.Kernel,), {"__annotations__": {"a": float}, "a": 1.0, "write_chain": too_far}
    )
    with pytest.raises(TypeError, match=r"Mine: decorate the class, @dataclass\(frozen=True\)"):
        undecorated()
    with pytest.raises(TypeError, match="derived from Kernel itself, not from Erf"):
        type("Mine", (mp.Erf,), {"write_chain": too_far})
    without = dataclass(frozen=True)(type("Mine", (mp.Kernel,), {}))
    with pytest.raises(TypeError, match="Mine has no chain: expected a static method write_chain"):
        mp.field(np.eye(3), np.eye(3), np.ones(3), 0, without())
    with pytest.raises(TypeError, match="or of a class of yours; got 'erf'"):
        mp.field(np.eye(3), np.eye(3), np.ones(3), 0, "erf")
    with pytest.raises(ValueError, match="width must be > 0, got -1"):
        Gaussian(-1)
    with pytest.raises(TypeError, match="width must be a number"):
        Gaussian("2")
    assert all(code >= CUSTOM for code, kind in KINDS.items() if kind.__name__ == "Mine")
