"""London dispersion of the atoms, D3(BJ) or D4, by the libraries of their authors."""

from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from gnn.units import BOHR, HARTREE

#: Library of each method, and its class of damping parameters.
_LIBRARIES = {"d3bj": ("dftd3", "RationalDampingParam"), "d4": ("dftd4", "DampingParam")}


@cache
def parameters(method: str, functional: str) -> tuple[Any, Any]:
    """Return the library's class of dispersion models, and the parameters of a functional.

    Raises
    ------
    ModuleNotFoundError
        If the library is not installed.
    ValueError
        If it does not know the functional.
    """
    name, damping = _LIBRARIES[method]
    try:
        library = import_module(f"{name}.interface")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"dispersion {method!r} needs the library {name}: pip install {name}"
        ) from error
    try:
        return library.DispersionModel, getattr(library, damping)(method=functional)
    except RuntimeError as error:
        raise ValueError(f"dispersion.functional: {name} has none for {functional!r}") from error


class _Energy(torch.autograd.Function):
    """Energies of systems, with gradients by the positions that are constants themselves."""

    @staticmethod
    def forward(ctx, positions, numbers, batch, charge, method, functional):
        model, damping = parameters(method, functional)
        x = positions.detach().double().cpu().numpy() / BOHR
        z, index, q = (t.cpu().numpy() for t in (numbers, batch, charge.detach().double()))
        energies = torch.zeros(len(q), dtype=torch.float64)
        gradient = torch.zeros(x.shape, dtype=torch.float64)
        for system in range(len(q)):
            own = index == system
            more = {"charge": q[system]} if method == "d4" else {}
            result = model(z[own], x[own], **more).get_dispersion(damping, grad=True)
            energies[system] = float(result["energy"]) * HARTREE
            slope = torch.from_numpy(result["gradient"]) * (HARTREE / BOHR)
            gradient[torch.from_numpy(own)] = slope
        ctx.save_for_backward(gradient.to(positions), batch)
        return energies.to(positions)

    @staticmethod
    def backward(ctx, upstream):
        gradient, batch = ctx.saved_tensors
        return gradient * upstream.index_select(0, batch)[:, None], *(5 * [None])


def dispersion_energy(
    positions: Tensor, numbers: Tensor, batch: Tensor, charge: Tensor, method: str, functional: str
) -> Tensor:
    """Return the dispersion energies (B,) of systems in eV.

    First derivatives are analytic. Second derivatives are left out, not refused: for training on
    forces this is a fixed addition that depends on no parameter.

    Parameters
    ----------
    positions, numbers, batch, charge : Tensor
        As in `gnn.data.Batch`.
    method : {"d3bj", "d4"}
        D3 with Becke–Johnson damping, or D4, whose coefficients depend on the total charge.
    functional : str
        Density functional that the dispersion is to complete, as the library names it.
    """
    return _Energy.apply(positions, numbers, batch, charge, method, functional)
