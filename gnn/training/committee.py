"""Committees: models that differ by chance; their mean and its standard deviation."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gnn.data.batching import Batch
from gnn.data.streaming import Header
from gnn.data.systems import Frame, System
from gnn.potential import N_ELEMENTS, Potential
from gnn.training.checkpoint import model_from
from gnn.trust.domain import Domain

#: What committees give the spread of, under the name with ``_std``.
SPREADS = ("energy", "forces", "mm_forces", "dipole")
_CHARGE = 10.0  # eV, of the order of ionisation energies


class Committee(Potential):
    """The mean of several models: a potential like any other, that also estimates its uncertainty.

    Energies, multipoles and derivatives are the means of the members', so that forces are the
    gradient of the energy. Beside them stand the standard deviations over the members, times the
    factors that `gnn.training.calibration.calibrate` has fitted to errors.

    Parameters
    ----------
    members : sequence of Potential, or of dict
        At least two models of one cutoff and one floating-point type; or what describes their
        architectures, as `config` returns it.
    factors : mapping, optional
        What the standard deviations of a quantity (``energy``, ``forces``, ``mm_forces``,
        ``dipole``) are multiplied by. A quantity that is not named is not calibrated: factor 1.

    Raises
    ------
    ValueError
        If there are fewer than two members, they differ in cutoff or type, or a factor is of
        another quantity, not finite or not positive.

    References
    ----------
    Seung, Opper & Sompolinsky, Query by committee, COLT 1992.
    """

    def __init__(
        self,
        members: Sequence[Potential | dict[str, Any]],
        factors: Mapping[str, float] | None = None,
    ):
        super().__init__()
        models = [model_from(m) if isinstance(m, dict) else m for m in members]
        if len(models) < 2:
            raise ValueError(f"expected at least two members of a committee, got {len(models)}")
        for what in ("cutoff", "dtype"):
            values = {getattr(model, what) for model in models}
            if len(values) > 1:
                raise ValueError(f"expected members of one {what}, got {sorted(map(str, values))}")
        self.members = nn.ModuleList(models)
        self.cutoff = models[0].cutoff
        kinds = {model.charges for model in models}
        self.charges = "local" if "local" in kinds else kinds.pop()
        self.factors = _checked(factors or {})
        self._describe()

    def _describe(self) -> None:
        """Set the elements known to all members, and the mean of their baselines."""
        members = list(self.models())
        self.known = torch.stack([m.known for m in members]).all(dim=0)
        self.baseline = torch.stack([m.baseline for m in members]).mean(dim=0)
        self.charge_baseline = torch.stack([m.charge_baseline for m in members]).mean(dim=0)

    def models(self) -> Sequence[Potential]:
        """Return the members."""
        return [member for member in self.members if isinstance(member, Potential)]

    @property
    def runs_on_gpu(self) -> bool:  # type: ignore[override]
        """Whether all members run on a GPU."""
        return all(member.runs_on_gpu for member in self.models())

    def config(self) -> dict[str, Any]:
        """Return plain values from which `from_config` builds the same architecture."""
        members = [{"kind": type(m).__name__, "config": m.config()} for m in self.models()]
        return {"members": members} | ({"factors": dict(self.factors)} if self.factors else {})

    def forward(self, batch: Batch, *arguments: Any, **options: Any) -> dict[str, Tensor]:
        """Evaluate a batch by every member.

        Parameters
        ----------
        batch, *arguments, **options
            As in `gnn.potential.Potential.forward`.

        Returns
        -------
        dict
            What `Potential.forward` returns, in the mean, and with the derivatives the standard
            deviations, such as ``energy_std`` (B,) in eV and ``forces_std`` (N, 3) in eV/Å.
        """
        return self._joined([member(batch, *arguments, **options) for member in self.models()])

    def stepped(self, batch: Batch, **asked: bool) -> dict[str, Tensor]:
        """Evaluate a batch of the host by every member; see `gnn.potential.Potential.stepped`."""
        if self.baseline.device.type == "cpu":
            return self(batch, **asked)
        return self._joined([member.stepped(batch, **asked) for member in self.models()])

    @property
    def domain(self) -> Domain | None:  # type: ignore[override]
        """What the first member was trained on; None unless all members say what they were."""
        domains = [member.domain for member in self.models()]
        return None if None in domains else domains[0]

    def evaluate(
        self,
        systems: Sequence[System | Frame],
        batch_size: int = 32,
        forces: bool = True,
        *,
        stress: bool = False,
        strict: bool = False,
        unknown: str | None = None,
    ) -> list[dict[str, Any]]:
        """Return the means over the members and, under names with ``_std``, how they scatter.

        Parameters
        ----------
        systems, batch_size, forces, stress, strict, unknown
            As in `gnn.potential.Potential.evaluate`.

        Returns
        -------
        list of dict
            What `Potential.evaluate` returns, and sample standard deviations over the members,
            times their factors: ``energy_std`` (eV), ``forces_std`` (n, 3) and ``mm_forces_std``
            (m, 3) in eV/Å, and ``dipole_std`` (3,) in e Å.
        """
        opinions = [
            m.evaluate(systems, batch_size, forces, stress=stress, unknown="ignore")
            for m in self.models()
        ]
        joined = (self._joined([_tensors(r) for r in of]) for of in zip(*opinions, strict=True))
        results = [{k: v.numpy() if v.ndim else v.item() for k, v in one.items()} for one in joined]
        self.judge(systems, results, "raise" if strict else unknown)
        return results

    def _joined(self, opinions: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Return means of what all members say, and scaled standard deviations."""
        shared = sorted(set.intersection(*map(set, opinions)))
        stacked = {name: torch.stack([opinion[name] for opinion in opinions]) for name in shared}
        means = {name: values.mean(dim=0) for name, values in stacked.items()}
        return means | {
            f"{k}_std": self.factors.get(k, 1.0) * _deviation(stacked[k])
            for k in SPREADS
            if k in stacked
        }


def _deviation(values: Tensor) -> Tensor:
    """Return sample standard deviations over the first axis: exactly zero where all are equal.

    Unlike `torch.std`, without a warning where there is nothing, as without surroundings.
    """
    relative = values - values[:1]
    centred = relative - relative.mean(dim=0)
    return (centred.square().sum(dim=0) / (len(values) - 1)).sqrt()


def _checked(factors: Mapping[str, float]) -> dict[str, float]:
    """Return factors of spreads, after a check."""
    for name, factor in factors.items():
        if name not in SPREADS:
            raise ValueError(f"factors: expected {', '.join(SPREADS)}, got {name!r}")
        if not (math.isfinite(factor) and factor > 0):
            raise ValueError(f"factors: {name} should be finite and > 0, got {factor}")
    return {name: float(factor) for name, factor in factors.items()}


def _tensors(result: Mapping[str, Any]) -> dict[str, Tensor]:
    return {k: torch.as_tensor(v, dtype=torch.float64) for k, v in result.items()}


# --- how the weights and constants of members are made to differ ----------------------------------


@torch.no_grad()
def perturb(model: nn.Module, scale: float, seed: int) -> None:
    """Add normal noise to all parameters.

    Parameters
    ----------
    model
        Changed in place.
    scale
        Standard deviation of the noise, relative to the root mean square of each tensor.
    seed
        Of the noise.
    """
    if scale == 0:
        return
    generator = torch.Generator().manual_seed(seed)
    for values in model.parameters():
        noise = torch.randn(values.shape, generator=generator, dtype=values.dtype)
        values.add_(scale * values.square().mean().sqrt() * noise.to(values.device))


def draw_undetermined(
    model: Potential, frames: Iterable[Frame | Header], isolated: Mapping[int, float], seed: int
) -> None:
    """Add to a model's constants a random part that the energies of some frames do not determine.

    A fit to a few compositions leaves combinations of the elements' energies open; a least-squares
    solution would give all members the same guess, and no spread where it is wrong by hundreds of
    eV. The part is drawn as wide as the energies of the elements are large, and for a unit of
    charge 10 eV.

    Parameters
    ----------
    model
        Changed in place.
    frames
        Whose energies the constants are fitted to.
    isolated
        Elements whose energies are given, and so determined.
    seed
        Of the draw.
    """
    known = model.elements
    rows = {
        (*np.bincount(f.system.numbers, minlength=N_ELEMENTS)[known], f.system.charge)
        for f in frames
        if f.energy is not None
    }
    given = [[*(z == other for other in known), False] for z in known if z in isolated]
    size = float(model.baseline[known].square().mean().sqrt())
    sizes = np.array([size] * len(known) + [_CHARGE])
    seen = np.array([*sorted(rows), *given], dtype=float).reshape(-1, len(sizes)) * sizes
    drawn = np.random.default_rng([seed, 1]).standard_normal(len(sizes))
    drawn -= np.linalg.pinv(seen, rcond=1e-9) @ (seen @ drawn)
    model.baseline[known] += torch.from_numpy(sizes * drawn)[:-1].to(model.baseline)
    model.charge_baseline += sizes[-1] * drawn[-1]
