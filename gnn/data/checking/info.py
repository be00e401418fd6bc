"""What a file of frames holds, which of its frames look wrong, and a picture of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from gnn.data.checking.doubts import doubts
from gnn.data.common import ATOMIC_LABELS, LABELS, is_hdf5
from gnn.data.elements import formula
from gnn.data.formats.by_suffix import read_frames
from gnn.data.formats.hdf5 import read_remarks
from gnn.data.images import farthest, surrounded
from gnn.data.shipped import shipped_path
from gnn.data.systems import Frame, System
from multipoles.files import atomic_write

#: Net force in eV/Å above which a frame is flagged: ten times that of coarse integration grids.
NET_FORCE = 0.05
#: Distances in Å below which a frame is flagged: of a point charge to an atom, and of two atoms.
CLOSE_CHARGE, CLOSE_ATOMS = 1.0, 0.6
#: Robust standard deviations from the median of its molecule beyond which a value is an outlier.
OUTLIER = 8.0
_COLOURS = 10  # of a picture, at most

_FEWEST = 10  # frames of a molecule from which outliers are looked for

#: Quantities of a frame: title and unit.
QUANTITIES = {
    "energy": ("energy − mean of the molecule", "eV"),
    "embedding": ("energy − energy in vacuum", "eV"),
    "force": ("forces, root mean square", "eV/Å"),
    "largest_force": ("largest force on an atom", "eV/Å"),
    "mm_force": ("forces on charges, root mean square", "eV/Å"),
    "largest_mm_force": ("largest force on a charge", "eV/Å"),
    "net_force": ("net force of atoms and charges", "eV/Å"),
    "dipole": ("dipole, length", "e Å"),
    "nearest_charge": ("nearest charge to an atom", "Å"),
    "nearest_atoms": ("nearest two atoms", "Å"),
    "n_mm": ("surrounding charges", ""),
}


@dataclass
class Summary:
    """What a file holds.

    Parameters
    ----------
    name
        Of the file.
    frames
        What it holds.
    values
        For each of `QUANTITIES` one number per frame; NaN where it is not known.
    flags
        Reasons to look at a frame again, and the frames' numbers in the file.
    remarks
        What the file says of itself.
    doubts
        Of signs and units, from :func:`gnn.data.checking.doubts.doubts`.
    """

    name: str
    frames: Sequence[Frame]
    values: dict[str, NDArray[np.float64]]
    flags: dict[str, list[int]] = field(default_factory=dict)
    remarks: dict[str, str] = field(default_factory=dict)
    doubts: list[str] = field(default_factory=list)


def read_summary(path: str | Path, keys: Mapping[str, str] | None = None) -> Summary:
    """Read a file and look at each of its frames.

    Parameters
    ----------
    path
        HDF5 or extxyz, or "shipped".
    keys
        As in :func:`gnn.data.read_frames`.

    Returns
    -------
    Summary

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`gnn.data.read_frames`.
    """
    file = shipped_path() if str(path) == "shipped" else Path(path)
    frames = read_frames(file, keys=keys)
    if not frames:
        raise ValueError(f"{file} holds no frame")
    remarks, vacuum = _remarks(file)
    summary = summarise(str(path), frames, read_frames(file, vacuum=True) if vacuum else None)
    summary.remarks = remarks
    return summary


def _remarks(path: Path) -> tuple[dict[str, str], bool]:
    """Return the remarks of an HDF5 file and whether all its molecules have vacuum labels."""
    if not is_hdf5(path):
        return {}, False
    remarks, with_vacuum, groups = read_remarks(path)
    return remarks, with_vacuum == groups


def summarise(name: str, frames: Sequence[Frame], vacuum: Sequence[Frame] | None = None) -> Summary:
    """Look at each of some frames; see :func:`read_summary`."""
    rows = [_row(frame) for frame in frames]
    values = {key: np.array([row.get(key, np.nan) for row in rows]) for key in QUANTITIES}
    if vacuum is not None:
        pairs = zip(frames, vacuum, strict=True)
        values["embedding"] = np.array([_number(f.energy) - _number(v.energy) for f, v in pairs])
    for own in _grouped(frames, _molecule).values():
        known = values["energy"][own]
        values["energy"][own] -= known[np.isfinite(known)].mean() if np.isfinite(known).any() else 0
    flags = _flags(frames, values)
    return Summary(name, frames, values, flags, doubts=doubts([*frames, *(vacuum or ())]))


def _number(value: float | None) -> float:
    return np.nan if value is None else value


def _grouped(frames: Sequence[Frame], key: Callable[[Frame], Any]) -> dict[Any, list[int]]:
    """Return the frames of each value of a key, in the order of the first of each."""
    groups: dict[Any, list[int]] = {}
    for i, frame in enumerate(frames):
        groups.setdefault(key(frame), []).append(i)
    return groups


def _molecule(frame: Frame) -> tuple[str, str, bytes, int]:
    """Frames of one molecule have one name, head, the same atoms and the same charge."""
    return frame.name, frame.head, frame.system.numbers.tobytes(), frame.system.charge


def _sort(frame: Frame) -> tuple[Any, ...]:
    """Outliers are looked for among frames of one sort, with surroundings or without."""
    return *_molecule(frame), frame.group, frame.system.n_mm > 0


def _row(frame: Frame) -> dict[str, float]:
    """Return what is known of a frame by quantity."""
    system = frame.system
    row: dict[str, float] = {"n_mm": system.n_mm, "energy": _number(frame.energy)}
    lattice, x = system.lattice, system.positions
    atoms, images, _ = surrounded(x, x, lattice, farthest(lattice))
    tree = cKDTree(images)
    if len(images) > 1:
        row["nearest_atoms"] = tree.query(atoms, k=2)[0][:, 1].min()
    if system.n_mm:
        particles = system.mm_positions if lattice is None else lattice.wrapped(system.mm_positions)
        row["nearest_charge"] = tree.query(particles)[0].min()
    if frame.dipole is not None:
        row["dipole"] = float(np.linalg.norm(frame.dipole))
    for name, forces in (("force", frame.forces), ("mm_force", frame.mm_forces)):
        if forces is not None and len(forces):
            row[name] = np.sqrt((forces**2).mean())
            row["largest_" + name] = np.linalg.norm(forces, axis=1).max()
    fields = system.uniform_field, system.external_field
    around = np.zeros((0, 3)) if system.n_mm == 0 else frame.mm_forces
    if frame.forces is not None and around is not None and fields == (None, None):
        net = frame.forces.sum(0) + around.sum(0)
        row["net_force"] = float(np.linalg.norm(net))
    return row


def _flags(frames: Sequence[Frame], values: Mapping[str, NDArray[Any]]) -> dict[str, list[int]]:
    """Return the frames that look wrong, by reason."""
    copies: dict[Any, int] = {}
    twice = [i for i, f in enumerate(frames) if copies.setdefault(_everything(f.system), i) != i]
    flags = {
        "the same geometry as an earlier frame": twice,
        f"net force above {NET_FORCE:g} eV/Å": _where(values["net_force"] > NET_FORCE),
        f"a charge closer than {CLOSE_CHARGE:g} Å": _where(values["nearest_charge"] < CLOSE_CHARGE),
        f"two atoms closer than {CLOSE_ATOMS:g} Å": _where(values["nearest_atoms"] < CLOSE_ATOMS),
    }
    groups = _grouped(frames, _sort).values()
    for name in ("energy", "largest_force", "largest_mm_force", "dipole"):
        logs = name.startswith("largest")  # these distributions have long tails
        outliers = [i for own in groups for i in _outliers(values[name], own, logs)]
        flags[f"{QUANTITIES[name][0]}: far from the others of the molecule"] = sorted(outliers)
    return {reason: indices for reason, indices in flags.items() if indices}


def _everything(system: System) -> tuple[Any, ...]:
    """Return everything that the energy of a system depends on."""
    parts = (getattr(system, part.name) for part in fields(system))
    return tuple(part.tobytes() if isinstance(part, np.ndarray) else part for part in parts)


def _where(mask: NDArray[Any]) -> list[int]:
    return np.flatnonzero(mask).tolist()


def _outliers(values: NDArray[Any], own: list[int], logs: bool) -> list[int]:
    known = [i for i in own if np.isfinite(values[i]) and (values[i] > 0 or not logs)]
    if len(known) < _FEWEST:
        return []
    x = np.log(values[known]) if logs else values[known]
    distance = np.abs(x - np.median(x))
    spread = 1.4826 * np.median(distance) * (1 + 10 / len(known))  # few tell their spread badly
    return [i for i, d in zip(known, distance, strict=True) if d > OUTLIER * spread > 0]


def tables(summary: Summary) -> list[Any]:
    """Return a summary as tables and lines for a rich console."""
    from rich.markup import escape

    parts: list[Any] = [
        f"{escape(summary.name)}: {len(summary.frames)} frames; "
        "energies in eV, lengths in Å, charges in e"
    ]
    told = {k: v for k, v in summary.remarks.items() if k == "level" or k.startswith("smiles_")}
    parts += [escape(f"{key}: {value}") for key, value in told.items()]
    parts += [_molecules(summary), _quantities(summary)]
    parts += [f"[yellow]doubt[/]: {escape(doubt)}" for doubt in summary.doubts]
    if not summary.flags and not summary.doubts:
        labelled = any(getattr(f, name) is not None for f in summary.frames for name in LABELS)
        parts.append(
            "No frame looks wrong: none twice, no net force, no outlier, no other sign or unit."
            if labelled
            else "No frame has a label to look at; no geometry looks wrong."
        )
    for reason, found in summary.flags.items():
        shown = ", ".join(map(str, found[:8])) + (f", … ({len(found)})" if len(found) > 8 else "")
        word = "frame" if len(found) == 1 else "frames"
        parts.append(f"[yellow]look again[/]: {reason}: {word} {shown}")
    return parts


def _molecules(summary: Summary) -> Any:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="Molecules")
    for heading in ("name", "atoms", "charge", "frames", "runs", "surrounding charges", "labels"):
        if heading in ("name", "atoms", "labels"):  # may be long: folded, never cut
            table.add_column(heading, overflow="fold", min_width=8)
        else:
            heading = heading.replace(" ", "\n")
            table.add_column(heading, justify="right", no_wrap=True)
    for own in _grouped(summary.frames, _molecule).values():
        frames = [summary.frames[i] for i in own]
        system, sizes = frames[0].system, [frame.system.n_mm for frame in frames]
        table.add_row(
            escape(_name_and_head(frames[0])),
            formula(system.numbers),
            f"{system.charge:+d}" if system.charge else "0",
            str(len(frames)),
            str(len({frame.run for frame in frames})),
            f"{min(sizes)} to {max(sizes)}" if max(sizes) else "none",
            _labels(frames, bool(np.isfinite(summary.values["embedding"][own]).all())),
        )
    return table


def _name_and_head(frame: Frame) -> str:
    """Return the name of a molecule, and the level of theory where frames name one."""
    return (frame.name or "–") + (f", head {frame.head}" if frame.head else "")


def label_counts(frames: Sequence[Frame]) -> dict[str, int]:
    """Return how many frames carry which label, without those that none has."""
    counts = {
        name: sum(getattr(frame, name) is not None for frame in frames)
        for name in (*LABELS, *ATOMIC_LABELS)
    }
    return {name: count for name, count in counts.items() if count}


def _could(name: str, frame: Frame) -> bool:
    """Return whether a frame could have a label."""
    if name == "mm_forces":
        return frame.system.n_mm > 0
    return name not in ("dipole", "stress") or frame.system.in_cell == (name == "stress")


def _labels(frames: Sequence[Frame], vacuum: bool) -> str:
    """Return the labels, and where not all frames that could have one do, how many."""
    labels = []
    for name, count in label_counts(frames).items():
        could = sum(_could(name, frame) for frame in frames)
        labels.append(name if count == could else f"{name} ({count} of {could})")
    return ", ".join(labels + ["vacuum"] * vacuum) or "none"


def _quantities(summary: Summary) -> Any:
    from rich.table import Table

    table = Table(title="Over all frames")
    for heading in ("quantity", "unit", "frames", "least", "mean", "largest", "spread"):
        text = heading in ("quantity", "unit")
        table.add_column(heading, justify="left" if text else "right", no_wrap=not text)
    for key, (title, unit) in QUANTITIES.items():
        known = summary.values[key][np.isfinite(summary.values[key])]
        if len(known):
            # a mean that is zero but for rounding is shown as such
            mean = known.mean() if abs(known.mean()) > 1e-9 else 0.0
            numbers = (known.min(), mean, known.max(), known.std())
            table.add_row(title, unit, str(len(known)), *(f"{x:.4g}" for x in numbers))
    return table


def picture(summary: Summary, path: Path) -> None:
    """Draw histograms of the quantities, one colour for each molecule, or sort, if they are few.

    Parameters
    ----------
    summary
        From :func:`read_summary`.
    path
        Picture to write (.png, .svg, .pdf).
    """
    from matplotlib.figure import Figure

    shown = [key for key in QUANTITIES if np.isfinite(summary.values[key]).any()]
    rows = -(-len(shown) // 3)
    figure = Figure(figsize=(11, 0.6 + 2.3 * rows), layout="constrained")
    axes = figure.subplots(rows, 3, squeeze=False).ravel()
    parts = _coloured(summary.frames)
    for axis, key in zip(axes, shown, strict=False):
        _histogram(axis, summary, key, parts)
    for axis in axes[len(shown) :]:
        axis.set_axis_off()
    handles, names = axes[0].get_legend_handles_labels()
    if len(names) > 1 or names != ["–"]:
        figure.legend(handles, names, loc="outside upper right", ncols=6, frameon=False)
    figure.suptitle(f"{summary.name}: {len(summary.frames)} frames", x=0.01, ha="left")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=150)


def _coloured(frames: Sequence[Frame]) -> dict[str, list[int]]:
    """Return the frames of each colour: of a name, or where these are many, of a sort."""
    for key in (lambda frame: frame.name or "–", lambda frame: frame.group or "–"):
        parts = _grouped(frames, key)
        if len(parts) <= _COLOURS:
            return parts
    return {"–": [*range(len(frames))]}


def _histogram(axis: Any, summary: Summary, key: str, parts: Mapping[str, list[int]]) -> None:
    """Draw one quantity, on a logarithmic scale where it spans orders of magnitude."""
    values = summary.values[key]
    known = values[np.isfinite(values)]
    low, high = known.min(), known.max()
    if low == high:
        low, high = low - 0.5, high + 0.5
    logs = key.endswith("force") and low > 0 and high / low > 30
    bins = np.geomspace(low, high, 41) if logs else np.linspace(low, high, 41)
    if key == "n_mm":  # waters come as three charges
        bins = np.arange(low - 1.5, high + 3, 3 * max(1, round((high - low) / 120)))
    for label, own in parts.items():
        mine = values[own][np.isfinite(values[own])]
        fill = axis.hist(mine, bins, histtype="stepfilled", alpha=0.3, label=label)[2][0]
        axis.hist(mine, bins, histtype="step", linewidth=1, color=fill.get_facecolor()[:3])
    if logs:
        axis.set_xscale("log")
    title, unit = QUANTITIES[key]
    axis.set_xlabel(f"{title} ({unit})" if unit else title)
    axis.set_ylabel("frames")
    axis.spines[["top", "right"]].set_visible(False)
