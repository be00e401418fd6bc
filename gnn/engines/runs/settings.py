"""Settings of a molecular-dynamics run."""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from gnn.engines.embedding.groups import SWITCH_WIDTH
from gnn.engines.embedding.kinds import ELECTROSTATICS
from gnn.settings import Checked


class Settings(Checked):
    """All settings that determine a run.

    Parameters
    ----------
    steps
        In all, from the equilibrated start.
    timestep
        In fs.
    ensemble
        "nvt" (Langevin), "npt" (with a barostat at 1 bar) or "nve" (Verlet).
    temperature
        In K.
    friction
        Of the Langevin thermostat in 1/ps.
    cutoff
        Distance in Å within which the model sees charges one by one.
    electrostatics
        What becomes of the others: see `gnn.engines.openmm.create_system`.
    charge
        Of the zone in e. None: the whole number that is nearest to the force field's.
    link_scheme
        What becomes of the charge where a bond is cut, or "refuse": see
        `gnn.engines.openmm.create_system`.
    hydrogen_mass
        Mass in Da that hydrogens get from the atoms they are bonded to, water outside of the zone
        aside. None: the masses of the force field.
    precision
        "float32" or "float64", of the model.
    classical
        Leave the model out: the force field alone, for comparison.
    interval
        Steps between frames of the trajectory and rows of the log.
    checkpoint_interval
        Steps between checkpoints, the most that is lost when a run is killed.
    trajectory
        "xtc" or "dcd".
    equilibration
        Time in ps at constant pressure, with the force field, before the start. 0 takes the
        coordinates as they are.
    seed
        Of velocities and thermostat.
    platform
        Of OpenMM, "CPU", "Reference", "CUDA", …; None: the fastest.
    threads
        Of OpenMM's CPU platform; None: all.
    model_device
        Where the model runs: "auto", on the device of OpenMM's platform CUDA and on the CPU beside
        others; or "cpu".
    warn_spread, stop_spread
        Spread of a committee's forces in eV/Å (`gnn.engines.spread.Spread`) above which the run
        warns, once, and above which it stops. None: neither.
    on_unknown
        What is done where the run leaves what the model knows (`gnn.engines.runs.unknown`):
        "ignore", "warn", "save" frames for labelling, or "stop". Spreads count from `warn_spread`.
    """

    steps: int = Field(ge=1)
    timestep: float = Field(default=0.5, gt=0)
    ensemble: Literal["nvt", "npt", "nve"] = "nvt"
    temperature: float = Field(default=300.0, gt=0)
    friction: float = Field(default=1.0, gt=0)
    cutoff: float = Field(default=9.0, gt=0)
    electrostatics: Literal[ELECTROSTATICS] = "periodic"  # type: ignore[valid-type]
    charge: int | None = None
    link_scheme: Literal["shift", "rcd", "delete", "refuse"] = "shift"
    hydrogen_mass: float | None = Field(default=None, ge=1.0, le=4.0)
    precision: Literal["float32", "float64"] = "float32"
    classical: bool = False
    interval: int = Field(default=100, ge=1)
    checkpoint_interval: int = Field(default=1000, ge=1)
    trajectory: Literal["xtc", "dcd"] = "xtc"
    equilibration: float = Field(default=10.0, ge=0)
    seed: int = Field(default=0, ge=0, lt=2**31 - 1)
    platform: str | None = None
    threads: int | None = Field(default=None, ge=1)
    model_device: Literal["auto", "cpu"] = "auto"
    warn_spread: float | None = Field(default=None, gt=0)
    stop_spread: float | None = Field(default=None, gt=0)
    on_unknown: Literal["ignore", "warn", "save", "stop"] = "warn"

    @field_validator("cutoff")
    @classmethod
    def _beyond_the_switch(cls, cutoff: float) -> float:
        if cutoff < SWITCH_WIDTH:
            raise ValueError(
                f"should be >= {SWITCH_WIDTH:g} Å, the width in which charges fade away, got "
                f"{cutoff}"
            )
        return cutoff

    @model_validator(mode="after")
    def _checkpoints_at_frames(self) -> Self:
        if self.checkpoint_interval % self.interval:
            raise ValueError(
                f"expected checkpoint_interval to be a multiple of interval ({self.interval}), got "
                f"{self.checkpoint_interval}"
            )
        return self
