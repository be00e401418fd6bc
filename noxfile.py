"""The oldest and the newest of all that anisole stands on, and what lies between: sessions of nox.

    uvx nox                       # oldest, newest
    uvx nox -s numba-0.61         # one of the others; `uvx nox --list` names them
    uvx nox -s newest -- --no-torch

Each session makes an environment with uv (which knows how to take the *lowest* version of each
requirement, and fetches Pythons that are missing), installs the package there, runs the fast core
of the tests and notes in benchmarks/results/support.csv what it ran with and what came of it.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import nox

nox.options.default_venv_backend = "uv"
nox.options.sessions = ["oldest", "newest"]

TOOLS = ("pytest>=8", "hypothesis", "mpmath")
NUMBERS = tuple(
    f"tests/multipoles/test_{name}.py"
    for name in ("checks", "conventions", "cold_start", "emit", "energy", "field", "jit",
                 "lattice_meaning", "moments", "radial")
) + tuple(
    f"tests/fmm/test_{name}.py"
    for name in ("interactions", "lists", "mesh", "near", "plan", "translations", "tree")
)  # fmt: skip
MODEL = tuple(
    f"tests/gnn/test_{name}.py"
    for name in ("data_formats", "edges", "field_operator", "learning", "model", "options",
                 "passes", "training_checkpoint")
)  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """A Python, and what is held back; everything else is the newest that goes with it."""

    python: str
    pins: tuple[str, ...] = ()
    resolution: str = "highest"


SETTINGS = {
    "oldest": Setting("3.11", resolution="lowest-direct"),
    "newest": Setting("3.14"),
    "python-3.11": Setting("3.11"),
    "python-3.12": Setting("3.12"),
    "python-3.13": Setting("3.13"),
    "numba-0.61": Setting("3.13", ("numba==0.61.*",)),
    "numpy-2.0": Setting("3.12", ("numpy==2.0.*",)),
    "scipy-1.13": Setting("3.12", ("scipy==1.13.*",)),
    "torch-2.11": Setting("3.14", ("torch==2.11.*",)),
}


def support(session: nox.Session, name: str) -> None:
    """Install what a setting says, run the fast core of the tests, note the result."""
    setting, with_torch = SETTINGS[name], "--no-torch" not in session.posargs
    package = ".[gnn]" if with_torch else "."
    # --reinstall-package: uv would take a wheel that it built of an older state of this folder
    session.install(
        "--compile-bytecode", "--resolution", setting.resolution, "--reinstall-package", "anisole",
        package, *setting.pins,
    )  # fmt: skip
    session.install(*TOOLS, *(("ase",) if with_torch else ()))
    outcome = Path(session.create_tmp()) / f"{name}.xml"
    session.run(
        "pytest", "-m", "not slow and not gpu and not cuda", f"--junitxml={outcome}",
        *NUMBERS, *(MODEL if with_torch else ()),
        success_codes=[0, 1],
        env={"NUMBA_CACHE_DIR": str(Path(session.virtualenv.location) / "kernels")},
    )  # fmt: skip
    session.run("python", "benchmarks/support.py", name, str(outcome))  # fails if a test did


for _name, _setting in SETTINGS.items():
    nox.session(partial(support, name=_name), name=_name, python=_setting.python)
