"""Biases of a run: umbrella, metadynamics and walls, as OpenMM's own forces."""

from collections.abc import Callable
from itertools import pairwise
from math import pi
from pathlib import Path
from typing import Any

import numpy as np

from gnn.engines.embedding.images import Array
from gnn.engines.sampling.plan import BiasPlan, UmbrellaPlan, WallPlan
from gnn.engines.sampling.variables import Variable, variable_of
from gnn.untrusted import read_npz

_CENTRE = "umbrella_centre"
_PARTS = 100  # steps in which the centre of an umbrella moves
_POINTS_PER_WIDTH = 5  # of the grid of metadynamics
_FOLDER = "bias"


class Bias:
    """What acts on the collective variables of one run.

    Parameters
    ----------
    plan : BiasPlan
        From `gnn.engines.sampling.plan.read_plan`.
    topology : openmm.app.Topology
        Of all atoms.
    positions, box
        (n, 3) and (3, 3) in Å, for selections by distance; without a box nothing is periodic.
    window
        Number of the umbrella's window, from 0.

    Attributes
    ----------
    variables : list of Variable
        All of the file, in its order: the columns of the log.
    centre : float or None
        Of the window in Å or degrees.

    Raises
    ------
    ValueError
        If the file does not fit the topology, or has no such window.
    """

    def __init__(
        self, plan: BiasPlan, topology: Any, positions: Array, box: Array | None, window: int = 0
    ):
        self.plan = plan
        self.variables = [
            variable_of(name, one, topology, positions, box) for name, one in plan.variables.items()
        ]
        self.centre: float | None = None
        if plan.umbrella is not None:
            if not 0 <= window < plan.windows:
                raise ValueError(f"expected a window from 0 to {plan.windows - 1}, got {window}")
            self.centre = plan.umbrella.windows[window]
        self._metadynamics: Any = None

    def __getitem__(self, name: str) -> Variable:
        """Return a variable by its name."""
        return next(variable for variable in self.variables if variable.name == name)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the log: names of variables with units."""
        return tuple(column_of(v.name, v.unit) for v in self.variables)

    def row(self, positions: Array, box: Array | None) -> dict[str, str]:
        """Return the columns of the log at positions (n, 3) in Å, molecules whole."""
        values = [f"{v.value(positions, box):.8g}" for v in self.variables]
        return dict(zip(self.columns, values, strict=True))

    def add_to(
        self, system: Any, temperature: float, folder: Path, bias: Array | None = None
    ) -> None:
        """Add the forces to a system, before its simulation is made.

        Parameters
        ----------
        system : openmm.System
            Gets one force for each wall and for the umbrella, or that of metadynamics.
        temperature
            In K, of metadynamics.
        folder
            Of the run; the bias of metadynamics is in its folder ``bias``.
        bias
            Of metadynamics so far, in kJ/mol, from `state`. None: there is none yet.
        """
        for number, wall in enumerate(self.plan.walls):
            system.addForce(wall_force(self[wall.variable], wall, number))
        if self.plan.umbrella is not None:
            variable = self[self.plan.umbrella.variable]
            assert self.centre is not None  # for the type checker
            system.addForce(umbrella_force(variable, self.plan.umbrella, self.centre))
        if self.plan.metadynamics is not None:
            self._add_metadynamics(system, temperature, folder / _FOLDER, bias)

    def _add_metadynamics(
        self, system: Any, temperature: float, folder: Path, bias: Array | None
    ) -> None:
        """Let OpenMM add its force; it reads what its folder holds."""
        from openmm import app

        plan = self.plan.metadynamics
        assert plan is not None  # for the type checker
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob("*.npy"):
            path.unlink()
        if bias is not None:
            np.save(folder / "bias_0_0.npy", bias)
        variables = []
        for name, grid in plan.variables.items():
            variable, periodic = self[name], self[name].turns
            points = round((grid.maximum - grid.minimum) / grid.width * _POINTS_PER_WIDTH) + 1
            numbers = (variable.scale * x for x in (grid.minimum, grid.maximum, grid.width))
            variables.append(
                app.BiasVariable(variable.force("x"), *numbers, periodic, gridWidth=points)
            )
        self._metadynamics = app.Metadynamics(
            system, variables, temperature, plan.bias_factor, plan.height, plan.interval,
            saveFrequency=plan.interval, biasDir=str(folder),
        )  # fmt: skip

    def begin(self, simulation: Any, timestep: float) -> None:
        """Move the umbrella's centre from where the simulation is to its own, over some steps.

        Parameters
        ----------
        simulation : openmm.app.Simulation
            With positions and velocities.
        timestep
            In fs.
        """
        umbrella = self.plan.umbrella
        steps = 0 if umbrella is None else round(umbrella.pull * 1000 / timestep)
        if umbrella is None or not steps:
            return
        variable = self[umbrella.variable]
        here = self._value(simulation, variable)
        assert self.centre is not None  # for the type checker
        way = self.centre - here
        if variable.turns:
            way = (way + 180) % 360 - 180
        ends = np.unique(np.linspace(0, steps, _PARTS + 1).round().astype(int))
        for before, now in pairwise(ends):
            centre = here + way * now / steps
            simulation.context.setParameter(_CENTRE, variable.scale * centre)
            simulation.step(int(now - before))
        simulation.context.setParameter(_CENTRE, variable.scale * self.centre)
        simulation.currentStep = 0
        simulation.context.setTime(0)

    def _value(self, simulation: Any, variable: Variable) -> float:
        from gnn.engines.runs.box import in_angstrom

        state = simulation.context.getState(positions=True, enforcePeriodicBox=True)
        return variable.value(*in_angstrom(state))

    def stepper(self, simulation: Any) -> Callable[[int], None]:
        """Return what does steps: the simulation, or metadynamics, which adds Gaussians."""
        if self._metadynamics is None:
            step: Callable[[int], None] = simulation.step
            return step
        return lambda count: self._metadynamics.step(simulation, count)

    def state(self) -> dict[str, Array]:
        """Return what a checkpoint must hold: the bias of metadynamics in kJ/mol."""
        if self._metadynamics is None:
            return {}
        # getFreeEnergy is this times a factor, and a restart is to be the same to the last bit
        return {"bias": np.array(self._metadynamics._totalBias)}

    def record(self) -> dict[str, Any]:
        """Return plain values that must be the same when a run goes on."""
        plan = self.plan.model_dump(mode="json", by_alias=True, exclude_none=True)
        return {"plan": plan, "centre": self.centre}


def read_arrays(checkpoint: Path) -> dict[str, Array]:
    """Return what `Bias.state` put into a checkpoint."""
    arrays = read_npz(checkpoint)
    return {"bias": arrays["bias"]} if "bias" in arrays else {}


def column_of(name: str, unit: str) -> str:
    """Return the name of a variable's column in the log."""
    return f"{name}_{'deg' if unit == 'degrees' else 'angstrom'}"


def umbrella_force(variable: Variable, plan: UmbrellaPlan, centre: float) -> Any:
    """Return the harmonic restraint of a window; a torsion goes the shorter way round."""
    d = f"x - {_CENTRE}"
    if variable.turns:
        d = f"y - {2 * pi!r}*floor((y + {pi!r})/{2 * pi!r}); y = x - {_CENTRE}"
    k = _force_constant(variable, plan.force_constant)
    return variable.force(f"{k!r}/2*d^2; d = {d}", {_CENTRE: variable.scale * centre})


def wall_force(variable: Variable, wall: WallPlan, number: int) -> Any:
    """Return the force of a wall on one side or on both."""
    k = _force_constant(variable, wall.force_constant)
    sides = []
    if wall.lower is not None:
        sides.append(f"min(0, x - {variable.scale * wall.lower!r})^2")
    if wall.upper is not None:
        sides.append(f"max(0, x - {variable.scale * wall.upper!r})^2")
    force = variable.force(f"{k!r}/2*({' + '.join(sides)})")
    force.setName(f"wall {number} of {variable.name}")
    return force


def _force_constant(variable: Variable, given: float) -> float:
    """Return kJ/mol/nm² of kJ/mol/Å²; those of radians stay."""
    return given if variable.unit == "degrees" else given / variable.scale**2


def harmonic(values: Array, centre: float, force_constant: float, unit: str, turns: bool) -> Array:
    """Return the energy of an umbrella in kJ/mol at values in Å or degrees."""
    away = np.asarray(values) - centre
    if turns:
        away = (away + 180) % 360 - 180
    if unit == "degrees":
        away = np.radians(away)
    energy: Array = 0.5 * force_constant * away**2
    return energy
