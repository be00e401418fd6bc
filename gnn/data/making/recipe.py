"""What determines a data set."""

import re

from pydantic import Field, field_validator

from gnn.data.making.kinds import Kind
from gnn.data.making.labelling import FITTING_BASIS
from gnn.data.making.sampling import Dynamics
from gnn.data.splits import RUNS_PER_BLOCK
from gnn.settings import Checked


class Recipe(Checked):
    """What determines a data set; the number of frames may grow later.

    Parameters
    ----------
    smiles
        The molecule.
    name
        Its name in the output file.
    charge
        Total charge in e.
    level
        Quantum chemistry, METHOD/BASIS.
    grid_level
        Integration grid of density functionals.
    density_fit
        Fit Coulomb and exchange in an auxiliary basis.
    padding
        Least water in Å between the solute and the walls of the box.
    mbis
        Add multipoles of the atoms (:func:`gnn.data.making.mbis.mbis`).
    kinds
        Kinds of frames (:class:`gnn.data.making.kinds.Kind`) and the share of each.
    dynamics
        Settings of the molecular dynamics.
    """

    smiles: str
    name: str
    charge: int
    level: str = "B3LYP/6-31G*"
    grid_level: int = Field(default=2, ge=0, le=9)
    density_fit: bool = False
    padding: float = Field(default=12.0, gt=0, lt=1000)
    mbis: bool = False
    kinds: dict[str, float] = Field(default={"water": 1.0})
    dynamics: Dynamics = Dynamics()

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        if not re.fullmatch(r"[\w.+-]+", name) or name.startswith("."):
            raise ValueError(f"expected letters, digits, _ . + -, got {name!r}")
        return name

    @field_validator("kinds")
    @classmethod
    def _known_kinds(cls, kinds: dict[str, float]) -> dict[str, float]:
        if not 1 <= len(kinds) < RUNS_PER_BLOCK or min(kinds.values()) <= 0:
            raise ValueError(f"expected kinds of frames with shares > 0, got {kinds}")
        for name in kinds:
            Kind.named(name)
        return kinds

    @property
    def fitting(self) -> str:
        """Basis in which Coulomb and exchange are fitted, or "none"."""
        return FITTING_BASIS if self.density_fit else "none"

    def kind(self, run: int) -> Kind:
        """Return the kind of the frames of a run."""
        return Kind.named(list(self.kinds)[run % RUNS_PER_BLOCK])
