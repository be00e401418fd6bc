"""Write what a model predicts: JSON with everything, extxyz or HDF5 with energies and forces."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gnn.data.common import LABELS
from gnn.data.formats.by_suffix import write_frames
from gnn.data.systems import Frame
from multipoles.files import atomic_write


def check_suffix(path: str | Path) -> None:
    """Raise a ValueError where the suffix names no format that `write_predictions` knows."""
    suffixes = (".json", ".xyz", ".extxyz", ".h5", ".hdf5")
    if Path(path).suffix.lower() not in suffixes:
        raise ValueError(
            f"{path}: cannot tell the format from the suffix {Path(path).suffix!r}; expected "
            f"{', '.join(suffixes)}"
        )


def write_predictions(
    path: str | Path, frames: Sequence[Frame], results: Sequence[dict[str, Any]]
) -> None:
    """Write predictions in the format that the suffix names.

    Parameters
    ----------
    path : path-like
        ``.json``: energies, forces, charges, dipoles, quadrupoles, in eV, Å and e. Otherwise a
        suffix of `gnn.data.write_frames`: the structures with predicted labels.
    frames : sequence of Frame
        The structures.
    results : sequence of dict
        From ``model.evaluate``.

    Raises
    ------
    ValueError
        If the suffix is unknown, or a result is not finite.
    """
    path = Path(path)
    check_suffix(path)
    if path.suffix.lower() == ".json":
        content = {
            "units": {"energy": "eV", "length": "Å", "charge": "e"},
            "structures": [
                {"numbers": frame.system.numbers.tolist()} | _plain(result)
                for frame, result in zip(frames, results, strict=True)
            ],
        }
        with atomic_write(path) as temporary:
            text = json.dumps(content, ensure_ascii=False, allow_nan=False)
            temporary.write_text(text, encoding="utf-8")
        return
    predicted = [
        Frame(
            frame.system,
            **{name: result[name] for name in LABELS if name in result},
            run=frame.run,
            name=frame.name,
            group=frame.group,
            head=frame.head,
        )
        for frame, result in zip(frames, results, strict=True)
    ]
    write_frames(path, predicted)


def _plain(result: dict[str, Any]) -> dict[str, Any]:
    return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in result.items()}
