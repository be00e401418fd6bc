"""The file of a bias: collective variables, and what acts on them.

An example, with all that there is::

    variables:
      phi: {torsion: [4, 6, 8, 14]}
      transfer: {difference: [[0, 5], [8, 5]]}
      gap: {distance: ["resname LIG and name O1", "resname LIG and name O2"]}
    umbrella:
      variable: phi
      centres: {from: -180, to: 165, count: 24}
      force_constant: 100
      pull: 1
    walls:
      - {variable: gap, upper: 3.2, force_constant: 200}

Lengths are in Å, angles in degrees, energies in kJ/mol; force constants are per Å² or per rad².
Points are atoms by their number from 0, lists of them, or selections of MDAnalysis; several atoms
stand for their centre of mass.
"""

from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import Field, ValidationError, field_validator, model_validator

from gnn.settings import Section, explain
from gnn.untrusted import read_yaml

Point = int | list[int] | str
#: Name of the file in the folder of a run.
PLAN = "bias.yaml"
_POINTS = {"distance": 2, "angle": 3, "torsion": 4}


class VariablePlan(Section):
    """One collective variable: a distance, an angle, a torsion, or a difference of distances.

    Parameters
    ----------
    distance, angle, torsion
        Two, three or four points.
    difference
        Two pairs of points: the distance of the first less that of the second.
    """

    distance: list[Point] | None = None
    angle: list[Point] | None = None
    torsion: list[Point] | None = None
    difference: list[list[Point]] | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        kinds = list(type(self).model_fields)
        given = [kind for kind in kinds if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(f"expected one of {', '.join(kinds)}, got {given or 'none'}")
        if self.difference is not None:
            if [len(pair) for pair in self.difference] != [2, 2]:
                raise ValueError(f"difference: expected two pairs of points, got {self.difference}")
        elif len(self.points) != _POINTS[given[0]]:
            raise ValueError(
                f"{given[0]}: expected {_POINTS[given[0]]} points, got {len(self.points)}"
            )
        return self

    @property
    def kind(self) -> str:
        """Return which of the four it is."""
        return next(kind for kind in type(self).model_fields if getattr(self, kind) is not None)

    @property
    def points(self) -> list[Point]:
        """Return all points, in their order."""
        if self.difference is not None:
            return [point for pair in self.difference for point in pair]
        return list(getattr(self, self.kind))


class Range(Section):
    """Numbers at equal distances, both ends included."""

    from_: float = Field(alias="from")
    to: float
    count: int = Field(ge=2)


class UmbrellaPlan(Section):
    """Harmonic restraints of one variable, each window about a centre of its own.

    Parameters
    ----------
    variable
        Its name.
    centres
        Of the windows in Å or degrees: numbers, or ``{from: , to: , count: }``.
    force_constant
        k of k/2 (x - centre)² in kJ/mol/Å² or kJ/mol/rad².
    pull
        Time in ps in which the centre moves from where a run starts to that of its window, before
        its first step.
    """

    variable: str
    centres: list[float] | Range
    force_constant: float = Field(gt=0)
    pull: float = Field(default=1.0, ge=0)

    @field_validator("centres")
    @classmethod
    def _some(cls, centres: Any) -> Any:
        if isinstance(centres, list) and not centres:
            raise ValueError("expected one centre or more, got none")
        return centres

    @property
    def windows(self) -> list[float]:
        """Return the centres of all windows."""
        if isinstance(self.centres, list):
            return self.centres
        found: list[float] = np.linspace(
            self.centres.from_, self.centres.to, self.centres.count
        ).tolist()
        return found


class GridPlan(Section):
    """One variable of metadynamics: between what it moves, and how wide the Gaussians are.

    Parameters
    ----------
    minimum, maximum
        Ends of the grid in Å or degrees; of a torsion all of it, -180 to 180.
    width
        Standard deviation of the Gaussians.
    """

    minimum: float = -180.0
    maximum: float = 180.0
    width: float = Field(gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.maximum - self.minimum < 2 * self.width:
            raise ValueError(
                f"expected minimum + 2 width < maximum, got {self.minimum:g}, {self.width:g}, "
                f"{self.maximum:g}"
            )
        return self


class MetadynamicsPlan(Section):
    """Well-tempered metadynamics by `openmm.app.Metadynamics`.

    Parameters
    ----------
    variables
        One to three, by name.
    height
        Of the first Gaussians in kJ/mol.
    bias_factor
        Ratio of the temperature at which the variables move to that of the run.
    interval
        Steps from one Gaussian to the next.
    """

    variables: dict[str, GridPlan] = Field(min_length=1, max_length=3)
    height: float = Field(default=1.0, gt=0)
    bias_factor: float = Field(default=10.0, gt=1)
    interval: int = Field(default=500, ge=1)


class WallPlan(Section):
    """A harmonic wall: k/2 (x - limit)² beyond a limit, nothing within.

    Parameters
    ----------
    variable
        Its name; not a torsion.
    lower, upper
        In Å or degrees; one of them or both.
    force_constant
        In kJ/mol/Å² or kJ/mol/rad².
    """

    variable: str
    lower: float | None = None
    upper: float | None = None
    force_constant: float = Field(gt=0)

    @model_validator(mode="after")
    def _somewhere(self) -> Self:
        if self.lower is None and self.upper is None:
            raise ValueError("expected lower or upper, got neither")
        if self.lower is not None and self.upper is not None and self.lower >= self.upper:
            raise ValueError(f"expected lower < upper, got {self.lower:g} and {self.upper:g}")
        return self


class BiasPlan(Section):
    """All of a bias file; see the module for an example."""

    variables: dict[str, VariablePlan] = Field(min_length=1)
    umbrella: UmbrellaPlan | None = None
    metadynamics: MetadynamicsPlan | None = None
    walls: list[WallPlan] = Field(default=[])

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.umbrella is not None and self.metadynamics is not None:
            raise ValueError("expected umbrella or metadynamics, got both")
        used = [wall.variable for wall in self.walls]
        used += [self.umbrella.variable] if self.umbrella is not None else []
        used += list(self.metadynamics.variables) if self.metadynamics is not None else []
        for name in used:
            if name not in self.variables:
                raise ValueError(f"expected one of the variables {list(self.variables)}: {name!r}")
        for wall in self.walls:
            if self.variables[wall.variable].kind == "torsion":
                raise ValueError(f"walls: {wall.variable} is a torsion, which has no ends")
        if self.metadynamics is not None:
            self._check_grids(self.metadynamics)
        return self

    def _check_grids(self, metadynamics: MetadynamicsPlan) -> None:
        turning = [self.variables[name].kind == "torsion" for name in metadynamics.variables]
        if any(turning) and not all(turning):
            raise ValueError(
                "metadynamics: torsions and other variables cannot be mixed (OpenMM's limitation)"
            )
        for (name, grid), turns in zip(metadynamics.variables.items(), turning, strict=True):
            ends = (grid.minimum, grid.maximum)
            if turns and ends != (-180, 180):
                raise ValueError(f"{name}: a torsion goes from -180 to 180, got {ends}")
            if not turns and not {"minimum", "maximum"} <= grid.model_fields_set:
                raise ValueError(f"{name}: expected minimum and maximum, got one or none")

    @property
    def windows(self) -> int:
        """Number of umbrella windows; 0 where there are none."""
        return 0 if self.umbrella is None else len(self.umbrella.windows)


def unit_of(kind: str) -> str:
    """Return the unit of a kind of variable, in which it is given and logged."""
    return "degrees" if kind in ("angle", "torsion") else "Å"


def read_plan(path: Path) -> BiasPlan:
    """Read the file of a bias.

    Raises
    ------
    OSError
        If it cannot be read.
    ValueError
        If it is no YAML, or not such a file; the message names what is wrong in one line.
    """
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected keys such as 'variables', got {str(values)[:40]!r}")
    try:
        return BiasPlan(**values)
    except ValidationError as error:
        wrong = error.errors()[0]
        if wrong["type"] in ("missing", "value_error"):
            raise ValueError(f"{path}: {explain(error, BiasPlan, lambda _: '')}") from None
        where = ".".join(map(str, wrong["loc"]))
        raise ValueError(f"{path}: {where}: {wrong['msg']}, got {wrong['input']!r}") from None
