"""Settings of a molecular-dynamics run."""

from dataclasses import dataclass

#: Width in Å of the shell below the cutoff in which charges fade away.
SWITCH_WIDTH = 1.5


@dataclass(frozen=True)
class Settings:
    """What determines a run.

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
        Reach in Å within which the model sees charges.
    precision
        "float32" or "float64", of the model.
    classical
        Leave the model out: the force field alone, for comparison.
    interval
        Steps between frames of the trajectory and rows of the log.
    checkpoint_interval
        Steps between checkpoints; what a kill can lose.
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
    """

    steps: int
    timestep: float = 0.5
    ensemble: str = "nvt"
    temperature: float = 300.0
    friction: float = 1.0
    cutoff: float = 9.0
    precision: str = "float32"
    classical: bool = False
    interval: int = 100
    checkpoint_interval: int = 1000
    trajectory: str = "xtc"
    equilibration: float = 10.0
    seed: int = 0
    platform: str | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        choices = {
            "ensemble": ("nvt", "npt", "nve"),
            "precision": ("float32", "float64"),
            "trajectory": ("xtc", "dcd"),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(
                    f"expected {name} to be one of {', '.join(known)}, got {getattr(self, name)!r}"
                )
        for name in ("steps", "interval", "checkpoint_interval"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} >= 1, got {getattr(self, name)}")
        for name in ("timestep", "temperature", "friction", "cutoff"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"expected {name} > 0, got {getattr(self, name)}")
        if self.cutoff < SWITCH_WIDTH:
            raise ValueError(
                f"expected cutoff >= {SWITCH_WIDTH:g} Å, the width in which charges fade away, got "
                f"{self.cutoff}"
            )
        if not 0 <= self.equilibration < float("inf"):
            raise ValueError(f"expected equilibration >= 0 ps, got {self.equilibration}")
        if not 0 <= self.seed < 2**31 - 1:
            raise ValueError(f"expected seed from 0 to {2**31 - 2}, got {self.seed}")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"expected threads >= 1, got {self.threads}")
        if self.checkpoint_interval % self.interval:
            raise ValueError(
                f"expected checkpoint_interval to be a multiple of interval ({self.interval}), got "
                f"{self.checkpoint_interval}"
            )
