"""Checkpoints of a run: the state of OpenMM, and a record of what the run was begun with."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gnn.potential import Potential
from gnn.untrusted import damage_of, read_npz
from multipoles.files import atomic_write


def write_checkpoint(
    path: Path, context: Any, record: Mapping[str, Any], more: Mapping[str, Any]
) -> None:
    """Write the state of a context, and what else a run needs to go on.

    Parameters
    ----------
    path : Path
        Replaced in one piece.
    context : openmm.Context
        Its state.
    record : dict
        Plain values.
    more : dict
        Arrays.
    """
    state = np.frombuffer(context.createCheckpoint(), dtype=np.uint8)
    with atomic_write(path) as temporary:
        np.savez(temporary, state=state, record=json.dumps(record), **more)


def read_checkpoint(path: Path) -> tuple[dict[str, Any], bytes]:
    """Return the record of a checkpoint and the state of its context.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If it is damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"nothing to resume in {path.parent}: leave out --resume")
    arrays = read_npz(path)
    with damage_of(path, "a checkpoint of a run"):
        return json.loads(str(arrays["record"])), arrays["state"].tobytes()


def load_state(context: Any, path: Path, record: Mapping[str, Any], state: bytes) -> None:
    """Give a context the state of a checkpoint.

    Raises
    ------
    ValueError
        If it is of another platform, machine or version.
    """
    try:
        context.loadCheckpoint(state)
    except Exception as error:  # OpenMMException
        raise ValueError(
            f"{path} cannot be loaded here ({error}); it was written on platform "
            f"{record['platform']}"
        ) from None


def upgraded(before: dict[str, Any], now: Mapping[str, Any], topology: Any) -> dict[str, Any]:
    """Return the settings that a run was begun with, as this version names them.

    Older versions named one residue, cut charges off, and kept a model's layers in words, nothing
    of its weights.
    """
    defaults = {"electrostatics": "cutoff", "charge": None, "link_scheme": "shift"}
    before = defaults | {"model_weights": now["model_weights"]} | before
    before["model"] = before["model"].split("(\n")[0]
    if "qm_residue" not in before:
        return before
    residue = list(topology.residues())[before["qm_residue"]]
    return before | {"qm_atoms": [atom.index for atom in residue.atoms()]}


def check_same(folder: Path, now: Mapping[str, Any], before: Mapping[str, Any]) -> None:
    """Refuse to go on with other settings, or another model, than a run was begun with."""
    changed = [
        f"{key} was {_short(before.get(key))}, now {_short(now[key])}"
        for key in now
        if now[key] != before.get(key)
    ]
    if changed:
        raise ValueError(f"{folder} was begun with other settings: {'; '.join(changed)}")


def check_lengths(sizes: Mapping[Path, int]) -> None:
    """Refuse files that are shorter than a checkpoint says."""
    for path, size in sizes.items():
        if not path.is_file() or path.stat().st_size < size:
            raise ValueError(f"{path} is shorter than its checkpoint says: start in a new folder")


def named(model: Any) -> str:
    """Return what a model is called: its kind, or as it was given."""
    return type(model).__name__ if isinstance(model, Potential) else str(model)


def fingerprint(model: Any) -> str | None:
    """Return what tells the numbers of a model from all others; None without a model.

    The same weights and parameters have the same one, wherever they were read from.
    """
    if model is None:
        return None
    digest = hashlib.sha256(json.dumps(model.config(), sort_keys=True, default=str).encode())
    for name, values in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(values.shape)} {values.dtype}".encode())
        digest.update(values.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 60 else f"{text[:30]} … {text[-20:]}"
