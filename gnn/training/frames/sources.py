"""From the section ``data`` to frames: files found, read or left to be streamed."""

import glob
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

from gnn.data import load_shipped, read_frames, shipped_path
from gnn.data.common import is_hdf5, wanted_names
from gnn.data.formats.hdf5 import read_remarks
from gnn.data.streaming import StreamedFrames, stream_frames
from gnn.data.systems import Frame
from gnn.training.config import DataConfig
from gnn.training.frames.loader import Frames

SHIPPED = "shipped"


def files_of(named: Sequence[str]) -> list[Path]:
    """Return the files that paths name; ``~`` is the home folder, ``*``, ``?`` and ``[]`` match.

    Raises
    ------
    FileNotFoundError
        If a pattern matches nothing.
    ValueError
        If a file is named twice.
    """
    files: list[Path] = []
    for text in named:
        path = os.path.expanduser(text)
        if glob.has_magic(path) and not os.path.exists(path):
            matches = sorted(glob.glob(path, recursive=True))
            if not matches:
                raise FileNotFoundError(f"no file matches {text} (looked in {Path.cwd()})")
            files += map(Path, matches)
        else:
            files.append(Path(path))
    for file in files:
        if files.count(file) > 1:
            raise ValueError(f"{file} is named twice: its frames would count double")
    return files


def level_of(data: DataConfig) -> str:
    """Return the level of theory that the HDF5 files name as a remark, or "unknown"."""
    named = data.files()[0]
    files = [shipped_path()] if named == [SHIPPED] else files_of(named)
    levels = {read_remarks(file)[0].get("level") for file in files if is_hdf5(file)}
    return ", ".join(sorted(level for level in levels if level)) or "unknown"


def open_frames(data: DataConfig, named: Sequence[str]) -> Frames:
    """Return all frames of some files: read, or left in their file where they are to be streamed.

    Raises
    ------
    ValueError
        If there is no frame, or a file to be streamed is not HDF5.
    """
    if not data.stream:
        return read(data, named)
    files = [shipped_path()] if list(named) == [SHIPPED] else files_of(named)
    for file in files:
        _warn_of_key(data, file)
    return stream_frames(
        files, names=data.molecules, block=data.stream_block, held=data.stream_buffer
    )


def read(data: DataConfig, named: Sequence[str], vacuum: bool = False) -> list[Frame]:
    """Read all frames of some files into memory, one file after the other."""
    if list(named) == [SHIPPED]:
        return load_shipped(data.molecules, vacuum=vacuum)
    files = files_of(named)
    if len(files) == 1:
        frames = _read_one(data, files[0], data.molecules, vacuum)
    else:  # a molecule may be in some of the files only
        runs: dict[str, int] = {}  # a run may continue in another file
        frames = [frame for file in files for frame in _read_one(data, file, None, vacuum, runs)]
        if data.molecules is not None:
            where = ", ".join(map(str, files))
            wanted = wanted_names(where, data.molecules, (frame.name for frame in frames))
            frames = [frame for frame in frames if frame.name in wanted]
    if not frames:
        raise ValueError(f"{', '.join(map(str, files))} holds no frame")
    return frames


def _read_one(
    data: DataConfig,
    file: Path,
    names: list[str] | None,
    vacuum: bool,
    runs: dict[str, int] | None = None,
) -> list[Frame]:
    keys = dict(data.keys)
    if data.split.key is not None:
        keys["group"] = data.split.key
    if is_hdf5(file):
        _warn_of_key(data, file)
        keys = {}
    return read_frames(file, names=names, vacuum=vacuum, keys=keys, run_names=runs)


def _warn_of_key(data: DataConfig, file: Path) -> None:
    if data.split.key not in (None, "group", "config_type"):
        warnings.warn(
            f"{file}: an HDF5 file has one key that groups frames, 'group', which is taken for "
            f"{data.split.key!r}",
            stacklevel=2,
        )


def is_surrounded(frame: Frame) -> bool:
    """Tell whether a frame has charges around its atoms, or is in a field."""
    system = frame.system
    return bool(
        system.n_mm or system.uniform_field is not None or system.external_field is not None
    )


def with_vacuum(training: Frames, data: DataConfig) -> Frames:
    """Return training frames, and those with surroundings again without and labelled so.

    Raises
    ------
    ValueError
        If not all of them have vacuum labels.
    """
    if isinstance(training, StreamedFrames):
        return training.with_vacuum()
    # not isolated atoms, which are not trained on
    data = data.model_copy(update={"molecules": sorted({frame.name for frame in training})})
    alone = {_identity(frame): frame for frame in read(data, data.files()[0], vacuum=True)}
    surrounded = [frame for frame in training if is_surrounded(frame)]
    missing = sum(_identity(frame) not in alone for frame in surrounded)
    if missing:
        raise ValueError(
            f"data.vacuum: {missing} of {len(surrounded)} training frames have no vacuum labels"
        )
    return [*training, *(alone[_identity(frame)] for frame in surrounded)]


def _identity(frame: Frame) -> tuple:
    return frame.name, frame.head, frame.run, frame.system.positions.tobytes()
