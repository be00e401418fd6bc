"""Plans for one use: direct sums before anything is compiled, and the fast method after."""

import os
import subprocess
import sys

import numpy as np
import pytest

import fmm
import multipoles as mp
from fmm import once
from multipoles.radial import Erf, Softened

N = 300
COLD = """
import numpy as np, fmm
from fmm.far import rotations
x = np.random.default_rng(0).random((5000, 3))
q = np.ones((5000, 1))
fmm.field(x, x, q)
fmm.energy_forces(x, q)
assert not rotations.translate.signatures, "compiled"
"""


@pytest.fixture
def cold(monkeypatch):
    """Let nothing seem to be compiled."""
    monkeypatch.setattr(once, "is_kept", lambda dispatcher: False)
    monkeypatch.setattr(once, "COMPILATION", 10.0)
    monkeypatch.setattr(once, "_spent", 0.0)


def points(dtype=np.float64):
    rng = np.random.default_rng(1)
    return rng.random((N, 3)).astype(dtype), rng.standard_normal((N, 4)).astype(dtype)


@pytest.mark.parametrize("kernel", [mp.Coulomb(), Erf(2.0), Softened(0.1)])
def test_direct_sums_are_those_of_multipoles(cold, kernel):
    x, moments = points()
    batch = np.repeat([0, 1], [100, 200])
    field = fmm.field(x, x, moments, order=2, kernel=kernel, source_batch=batch)
    want = mp.field(x, x, moments, 2, kernel, target_batch=batch, source_batch=batch)
    np.testing.assert_array_equal(field, want)
    energy, forces, gradients = fmm.energy_forces(x, moments, kernel, batch=batch)
    expected = mp.energy_forces(x, moments, kernel, batch=batch)
    np.testing.assert_allclose(energy, expected[0], rtol=1e-12)
    np.testing.assert_allclose(forces, expected[1], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(gradients, expected[2], rtol=1e-9, atol=1e-9)
    assert fmm.energy(x, moments, kernel, batch=batch) == pytest.approx(expected[0], rel=1e-12)
    torques = fmm.torques(x, moments, kernel, batch=batch)
    np.testing.assert_allclose(torques, mp.torques(moments, expected[2]), rtol=1e-9, atol=1e-9)
    assert once._spent > 0


def test_float32_and_channels_come_back_as_they_went_in(cold):
    x, moments = points(np.float32)
    exact = mp.field(x.astype(float), x.astype(float), moments.astype(float))
    for given, shape in ((moments, (N, 4)), (moments[:, None].repeat(2, 1), (N, 2, 4))):
        field = fmm.field(x, x[:], given)  # other targets, in the same places
        assert field.dtype == np.float32 and field.shape == shape
        np.testing.assert_allclose(field.reshape(N, -1)[:, :4], exact, rtol=1e-5, atol=1e-3)


def test_scaled_pairs_time_spent_and_what_is_kept_call_for_a_plan(cold, monkeypatch):
    x, _ = points()
    given = x, None, 1e-6, 1, 1, 1, mp.Coulomb()
    assert isinstance(once.plan(*given, None, {}), once.DirectSums)
    scaled = np.array([[0, 1]]), np.array([0.5])
    assert isinstance(once.plan(*given, scaled, {}), fmm.FMM)
    with monkeypatch.context() as patch:
        patch.setattr(once, "is_kept", lambda dispatcher: True)
        assert isinstance(once.plan(*given, None, {}), fmm.FMM)
    monkeypatch.setattr(once, "_spent", once.COMPILATION)
    assert isinstance(once.plan(*given, None, {}), fmm.FMM)


def test_time_counts_for_all_processes(tmp_path):
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "MULTIPOLES_QUIET": "1"}
    environment.pop("NUMBA_ENABLE_CUDASIM", None)

    def found(lines):
        done = subprocess.run(
            [sys.executable, "-c", "from fmm import once\nonce._NOTED = 0.0\n" + lines],
            env=environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout.strip()

    summed = "import numpy as np, fmm\nx = np.eye(3)\nfmm.field(x, x, x[:, :1])\n"
    pays = "print(once._pays(1.0))"
    assert found(summed + pays) == "True"
    (noted,) = tmp_path.rglob("*-times.txt")
    assert len(noted.read_text().split()) == 1
    noted.write_text("11.5\n")
    assert found(pays) == "False"
    noted.write_text("damaged")
    assert found(pays) == "True"


@pytest.mark.parametrize(
    ("error", "arguments"),
    [
        (ValueError, {"tolerance": 2.0}),
        (TypeError, {"tolerance": "1e-6"}),
        (ValueError, {"order": -1}),
        (ValueError, {"kernel": mp.Yukawa(1.0)}),
        (ValueError, {"targets": [[0, np.nan, 0]]}),
        (ValueError, {"targets": [0.0, 1.0]}),
        (ValueError, {"source_batch": [0, 1]}),
    ],
)
def test_errors_are_those_of_plans(cold, monkeypatch, error, arguments):
    x, moments = points()
    given = {"targets": x, "sources": x, "moments": moments} | arguments
    with pytest.raises(error) as direct:
        fmm.field(**given)
    monkeypatch.setattr(once, "COMPILATION", 0.0)
    with pytest.raises(error) as fast:
        fmm.field(**given)
    assert str(direct.value) == str(fast.value)


def test_a_long_direct_sum_is_told_once_it_is_done(cold, monkeypatch, capsys):
    x, moments = points()
    monkeypatch.delenv("MULTIPOLES_QUIET", raising=False)
    fmm.field(x, x, moments)
    assert not capsys.readouterr().err
    monkeypatch.setattr(once, "_LONG", 0.0)
    fmm.field(x, x, moments)
    assert "summed directly" in capsys.readouterr().err


def test_a_first_script_compiles_no_expansions(tmp_path):
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", COLD], env=environment, check=True)
