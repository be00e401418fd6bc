"""Energies of isolated atoms: found among the frames or given, checked, kept out of training.

They are the constant part of the energy (`Potential.set_baseline`). A frame is one of them where
its ``config_type`` (`Frame.group`) says ``IsolatedAtom``; a single atom that is not marked so is a
molecule like any other.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from gnn.data.common import is_isolated
from gnn.data.elements import symbol
from gnn.data.streaming import Header
from gnn.data.systems import Frame
from gnn.training.config import SAME_ENERGY


class Isolated(NamedTuple):
    """What is known of isolated atoms.

    Parameters
    ----------
    energies
        eV by atomic number.
    frames
        How many frames they were found in.
    charged
        Frames of ions, which were left out.
    """

    energies: dict[int, float]
    frames: int = 0
    charged: int = 0


def without_isolated(headers: Iterable[Frame | Header]) -> list[int]:
    """Return the indices of the frames that are not isolated atoms."""
    return [i for i, header in enumerate(headers) if not is_isolated(header.group)]


def isolated_atoms(headers: Sequence[Frame | Header], named: Mapping[int, float]) -> Isolated:
    """Return the energies of isolated atoms in frames and in the configuration.

    Parameters
    ----------
    headers
        All frames, of which those are taken that say so.
    named
        Energies in eV by atomic number, from ``data.isolated_atoms``.

    Raises
    ------
    ValueError
        If such a frame has several atoms, surroundings or no energy, or two energies of one
        element differ.
    """
    marked = [(i, header) for i, header in enumerate(headers) if is_isolated(header.group)]
    neutral = [
        (i, header) for i, header in marked if _checked(i, header) and header.system.charge == 0
    ]
    values: dict[int, list[float]] = {z: [energy] for z, energy in named.items()}
    for i, header in neutral:
        number, energy = int(header.system.numbers[0]), float(header.energy or 0.0)
        before = values.setdefault(number, [])
        if before and abs(before[0] - energy) > SAME_ENERGY:
            where = "data.isolated_atoms" if number in named else "an earlier frame"
            raise ValueError(
                f"frame {i}: the isolated {symbol(number)} atom has {energy:.6f} eV, but "
                f"{before[0]:.6f} eV in {where}: keep the one that belongs to the other frames' "
                "level of theory"
            )
        before.append(energy)
    means = {z: sum(own) / len(own) for z, own in sorted(values.items())}
    return Isolated(means, len(marked), len(marked) - len(neutral))


def _checked(i: int, header: Frame | Header) -> bool:
    """Return True where a frame can be an isolated atom; raise an error that says why not."""
    atoms = len(header.system.numbers)
    element = f" of {symbol(int(header.system.numbers[0]))}" if atoms == 1 else ""
    reason = ""
    if atoms != 1:
        reason = f"{atoms} atoms, expected one"
    elif header.system.n_mm:
        reason = f"{header.system.n_mm} charges around it, expected none"
    elif header.energy is None:
        reason = "no energy (if it is there under another name, name that in data.keys)"
    if reason:
        raise ValueError(
            f"frame {i} is marked as an isolated atom{element} ({header.group}), but has {reason}"
        )
    return True


def isolated_lines(isolated: Isolated, elements: Iterable[int], start: str | None) -> list[str]:
    """Return lines that say how isolated atoms are used."""
    lines = []
    if isolated.charged:
        lines.append(
            f"{isolated.charged} isolated atoms have a charge and are left out: the constant of an "
            "element is that of the neutral atom"
        )
    if not isolated.energies:
        return lines
    if start is not None:
        return [
            *lines,
            "isolated atoms: their energies are not used, since the constant part is fitted "
            f"beside the weights of {start}",
        ]
    known = ", ".join(f"{symbol(z)} {e:.3f} eV" for z, e in isolated.energies.items())
    frames = f" ({isolated.frames} frames, which are not trained on)" if isolated.frames else ""
    missing = [symbol(z) for z in sorted(set(elements) - set(isolated.energies))]
    rest = f"; fitted: {', '.join(missing)}, of which none is given" if missing else ""
    return [*lines, f"isolated atoms{frames}: {known}{rest}"]


def single_atoms(headers: Iterable[Frame | Header]) -> int:
    """Return how many frames are one atom and nothing around it."""
    systems = (header.system for header in headers)
    return sum(len(s.numbers) == 1 and not s.n_mm and not s.in_cell for s in systems)
