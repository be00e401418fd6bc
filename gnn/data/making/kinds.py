"""What sorts of frames there are: how a snapshot of the dynamics becomes a geometry to label."""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnn.data.systems import System

#: Medium of the dynamics, and number of quantum-mechanical waters, of each sort of frames.
SORTS = {
    "water": ("water", 0),
    "stretched": ("water", 0),
    "zone1": ("water", 1),
    "zone2": ("water", 2),
    "vacuum": ("vacuum", 0),
    "pair": ("vacuum", 1),
}
_SCALES = 0.8, 1.3  # of a stretched bond
_DISPLACEMENT = 0.03  # Å, of the atoms beside a stretched bond
_NEAREST_CHARGE = 1.4  # Å from an atom that was moved
_NEAREST_ATOM = 0.6  # Å between atoms, when one was moved
_PAIRS = 2.4, 8.0  # Å from the water's oxygen to the nearest heavy atom of the solute
_CONTACT = 1.5  # Å between any two atoms of a pair
_O_H, _H_O_H = (0.9572, 0.04), (104.52, 6.0)  # mean and spread (Å, degrees) of water
_MOST_TRIALS = 200


@dataclass(frozen=True)
class Kind:
    """One sort of frames.

    Parameters
    ----------
    name
        SORT or SORT@TEMPERATURE, such as "stretched" or "water@450"; the group of the frames.
    sort
        Key of `SORTS`.
    temperature
        K; None: that of the dynamics.
    """

    name: str
    sort: str
    temperature: float | None

    @classmethod
    def named(cls, name: str) -> "Kind":
        """Return the kind of a name.

        Raises
        ------
        ValueError
            If there is none.
        """
        sort, at, temperature = name.partition("@")
        if sort not in SORTS or (at and not re.fullmatch(r"[1-9]\d{1,3}", temperature)):
            raise ValueError(
                f"expected one of {', '.join(SORTS)}, with a temperature in K if it has its own, "
                f"such as water@450, got {name!r}"
            )
        return cls(name, sort, float(temperature) if at else None)

    @property
    def in_vacuum(self) -> bool:
        """Tell whether the dynamics are without water."""
        return SORTS[self.sort][0] == "vacuum"

    @property
    def waters(self) -> int:
        """Number of waters that are quantum-mechanical."""
        return SORTS[self.sort][1]


def molecule_name(solute: str, kind: Kind) -> str:
    """Return the name of the atoms of a frame, such as ``meoh+2h2o``."""
    return solute + ("", "+h2o", "+2h2o")[kind.waters]


def geometry(kind: Kind, shot: dict[str, Any], charge: int, seed: tuple[int, ...]) -> System:
    """Return what is to be labelled.

    Parameters
    ----------
    kind
        Sort of frame.
    shot
        Snapshot: numbers, positions, bonds, mm_positions, mm_charges.
    charge
        Total charge of the solute.
    seed
        Of the random numbers.

    Raises
    ------
    RuntimeError
        If no geometry is found, or there are too few waters.
    """
    rng = np.random.default_rng([*seed, len(SORTS)])
    make = {"stretched": _stretched, "zone1": _zone, "zone2": _zone, "pair": _pair}.get(kind.sort)
    if make is not None:
        shot = shot | make(kind, shot, rng)
    # float32: labels are computed at exactly the coordinates that are stored
    positions: Any = np.asarray(shot["positions"], dtype=np.float32)
    return System(shot["numbers"], positions, charge, shot["mm_positions"], shot["mm_charges"])


def _stretched(kind: Kind, shot: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    return {"positions": stretched(shot, rng)}


def stretched(
    shot: dict[str, Any], rng: np.random.Generator, scales: tuple[float, float] = _SCALES
) -> NDArray[np.float64]:
    """Return positions with one bond, in no ring, scaled, and all atoms displaced a little."""
    positions = np.asarray(shot["positions"], dtype=np.float64)
    bonds = [(*bond, part) for bond in shot["bonds"].tolist() if (part := _behind(shot, *bond))]
    hydrogen = [1 in shot["numbers"][[i, j]] for i, j, _ in bonds]
    # a bond between heavy atoms as often as one to hydrogen
    share = np.array([1 / hydrogen.count(one) for one in hydrogen])

    def draw() -> NDArray[np.float64]:
        moved = positions + _DISPLACEMENT * rng.standard_normal(positions.shape)
        if bonds:
            i, j, part = bonds[rng.choice(len(bonds), p=share / share.sum())]
            moved[part] += (rng.uniform(*scales) - 1) * (moved[j] - moved[i])
        return moved

    def fits(moved: NDArray[np.float64]) -> bool:
        apart = _distances(moved, moved)[np.triu_indices(len(moved), 1)]
        charges = _distances(moved, shot["mm_positions"])
        return bool((apart > _NEAREST_ATOM).all() and (charges > _NEAREST_CHARGE).all())

    return _drawn(draw, fits)


def _behind(shot: dict[str, Any], i: int, j: int) -> list[int]:
    """Return the atoms on the side of j of the bond from i to j, none if it is in a ring."""
    bonds = [set(bond) for bond in shot["bonds"].tolist() if set(bond) != {i, j}]
    side, reached = set(), {j}
    while reached:
        side |= reached
        reached = set().union(*(bond for bond in bonds if bond & reached)) - side
    return [] if i in side else sorted(side)


def _zone(kind: Kind, shot: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """Make the nearest waters quantum-mechanical: flexible ones, so of random distortion."""
    waters = np.asarray(shot["mm_positions"], dtype=np.float64).reshape(-1, 3, 3)
    distance = _distances(waters.reshape(-1, 3), shot["positions"]).min(1).reshape(-1, 3).min(1)
    order = np.argsort(distance, kind="stable")
    near, rest = order[: kind.waters], np.sort(order[kind.waters :])
    if len(near) < kind.waters:
        raise RuntimeError(f"{kind.name}: expected {kind.waters} waters or more, got {len(near)}")
    chosen = [_bent(waters[k], rng) for k in near]
    return _joined(shot, chosen) | {
        "mm_positions": waters[rest].reshape(-1, 3).astype(np.float32),
        "mm_charges": shot["mm_charges"].reshape(-1, 3)[rest].ravel(),
    }


def _pair(kind: Kind, shot: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """Put a water beside the solute: any direction and orientation, uniform in 1/r."""
    solute = np.asarray(shot["positions"], dtype=np.float64)
    heavy = solute[shot["numbers"] > 1]
    nearest, farthest = _PAIRS

    def draw() -> NDArray[np.float64]:
        water = _bent(np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], dtype=np.float64), rng)
        direction = rng.standard_normal(3)
        direction /= np.linalg.norm(direction)
        wanted = 1 / rng.uniform(1 / farthest, 1 / nearest)
        # the farthest point of the ray at the wanted distance from an atom
        along = heavy @ direction
        square = wanted**2 - (heavy**2).sum(1) + along**2
        reach = (along + np.sqrt(np.maximum(square, 0)))[square > 0]
        place = reach.max() if len(reach) else 0.0
        return water @ _rotation(rng).T + place * direction

    def fits(water: NDArray[np.float64]) -> bool:
        return bool((_distances(water, solute) > _CONTACT).all())

    return _joined(shot, [_drawn(draw, fits)])


def _bent(water: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Return a water in the plane and the orientation of this one with a random geometry."""
    one, two = ((h - water[0]) / np.linalg.norm(h - water[0]) for h in water[1:])
    middle, across = one + two, one - two
    middle, across = middle / np.linalg.norm(middle), across / np.linalg.norm(across)
    half = np.deg2rad(rng.normal(*_H_O_H)) / 2
    bent = water[0] + np.zeros((3, 3))
    for row, sign in ((1, 1), (2, -1)):
        direction = np.cos(half) * middle + sign * np.sin(half) * across
        bent[row] += max(rng.normal(*_O_H), 0.8) * direction
    return bent


def _joined(shot: dict[str, Any], waters: list[NDArray[np.float64]]) -> dict[str, Any]:
    return {
        "numbers": np.concatenate([shot["numbers"], *([8, 1, 1] for _ in waters)]),
        "positions": np.concatenate([shot["positions"], *waters]),
    }


def _rotation(rng: np.random.Generator) -> NDArray[np.float64]:
    """Return a random rotation."""
    q, r = np.linalg.qr(rng.standard_normal((3, 3)))
    q *= np.sign(np.diag(r))
    return q * np.linalg.det(q)


def _drawn(draw: Any, fits: Any) -> NDArray[np.float64]:
    """Draw until it fits."""
    for _ in range(_MOST_TRIALS):
        if fits(drawn := draw()):
            return drawn
    raise RuntimeError(f"none of {_MOST_TRIALS} random geometries is free of close contacts")


def _distances(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    return np.linalg.norm(np.asarray(a)[:, None] - np.asarray(b)[None], axis=-1)


def schedule(shares: dict[str, float], frames: int, runs: int) -> list[tuple[int, int]]:
    """Return of which kind (by place) and which block each frame is.

    The first frames of a longer schedule are those of a shorter one, and hold each kind by its
    share and all blocks.

    Parameters
    ----------
    shares
        Share of each kind.
    frames
        Number of frames.
    runs
        Number of runs of each kind: one in each block.
    """
    weights = np.array(list(shares.values())) / sum(shares.values())
    counts = np.zeros(len(weights), dtype=int)
    plan = []
    for n in range(frames):
        kind = int(np.argmax(weights * (n + 1) - counts))
        plan.append((kind, (kind + int(counts[kind])) % runs))
        counts[kind] += 1
    return plan
