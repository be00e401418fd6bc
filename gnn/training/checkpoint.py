"""Checkpoints: models, and the state of a training run."""

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

from gnn.data.elements import symbol
from gnn.data.valence import METAL_IONS
from gnn.options import as_it_was
from gnn.potential import Potential
from gnn.published import by_name
from gnn.trust.domain import Domain
from gnn.untrusted import read_state
from multipoles.files import atomic_write

FORMAT = "anisole-model"
VERSION = 5
#: Before this version, ions of metals gave charge to their neighbours.
_METALS_KEEP_CHARGE = 5
#: The model trained on the shipped frames.
SHIPPED = Path(__file__).parent.parent / "data" / "model.pt"
_TYPES = {"float32": torch.float32, "float64": torch.float64}
# numbers that a model makes itself and no file holds
_SPARE = 1 << 20
#: Classes of models and where they live.
_KINDS = {"AMP": "gnn.model", "AmpBms": "gnn.published", "Committee": "gnn.training.committee"}


def model_state(model: Potential) -> dict[str, Any]:
    """Return what `load_model` needs, in tensors and plain values only."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "kind": type(model).__name__,
        "config": model.config(),
        "dtype": str(model.dtype).removeprefix("torch."),
        "state_dict": model.state_dict(),
        "domains": [one.domain and one.domain.state() for one in model.models()],
    }


def add_domain(path: str | Path, model: Potential) -> None:
    """Write into a checkpoint the domain of its model and its bounds, as `model` has them."""
    state = model_state(model)
    save(path, load(path) | {name: state[name] for name in ("domains", "state_dict")})


def save(path: str | Path, content: dict[str, Any]) -> None:
    """Write a checkpoint.

    Raises
    ------
    OSError
        If the disk is full or the folder cannot be written to; a checkpoint that was there before
        is as it was.
    """
    buffer = io.BytesIO()  # torch's own writer hides why a file could not be written
    torch.save(content, buffer)
    with atomic_write(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Name the file in errors of writing it."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(
            f"cannot write {path}: {reason}; mend that and continue with --resume: what was saved "
            "before is whole"
        ) from error


def check_folder(folder: Path) -> None:
    """Make a folder for results, and raise an OSError where nothing can be written in it."""
    try:
        with atomic_write(folder / "probe.tmp") as temporary:
            temporary.write_bytes(b"probe")
        (folder / "probe.tmp").unlink()
    except OSError as error:
        raise OSError(
            f"cannot write in the output folder {folder}: {error.strerror or error}; name another "
            "one (output: in the configuration)"
        ) from error


def last_of(folder: Path) -> Path:
    """Return the checkpoint to continue from.

    Raises
    ------
    FileNotFoundError
        If there is none.
    """
    path = folder / "last.pt"
    if not path.is_file():
        raise FileNotFoundError(f"nothing to resume in {folder}: leave out --resume")
    return path


def save_model(path: str | Path, model: Potential, **extra: Any) -> None:
    """Write a model, with plain values beside it."""
    save(path, model_state(model) | extra)


def load(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint without running code from it.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not a checkpoint of this package.
    """
    path = _file_of(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"no checkpoint at {path}: train a model with `anisole train`, or name one of those "
            f"that are known: {by_name.known_names()} (`anisole models`)"
        )
    content = read_state(path, "a checkpoint of anisole")
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path} is not a checkpoint of anisole: it lacks format '{FORMAT}'")
    missing = [k for k in ("version", "config", "dtype", "state_dict") if k not in content]
    if missing:
        raise ValueError(f"{path} is not a complete checkpoint: {', '.join(missing)} is missing")
    kinds = {"version": int, "config": dict, "dtype": str, "state_dict": dict}
    for key, kind in kinds.items():
        if not isinstance(content[key], kind):
            raise ValueError(
                f"{path} is damaged: expected {key} to be of type {kind.__name__}, got "
                f"{type(content[key]).__name__}"
            )
    if content["version"] > VERSION:
        raise ValueError(
            f"{path} was written by a newer anisole (version {content['version']} of the format, "
            f"this one reads up to {VERSION}): update anisole"
        )
    return content


def _file_of(path: str | Path) -> Path:
    known = by_name.find(path)
    if known is None:
        return Path(path)
    if known.published:
        raise ValueError(f"{path} names published weights, which are no checkpoint of anisole")
    return SHIPPED


def load_model(path: str | Path | None = None) -> Potential:
    """Load a model from a checkpoint, or by its name.

    Parameters
    ----------
    path : path-like, optional
        Checkpoint written by training, or the name of a model that ``anisole models`` lists, such
        as ``"amp-bms"``, whose weights are fetched at the first use (a file of that name goes
        first). None takes the model that ships with the package.

    Returns
    -------
    Potential
        Its `domain` is None if the checkpoint does not say what it was trained on.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    OSError
        If weights cannot be fetched, or are not those that their authors published.
    ValueError
        If the file is not a checkpoint of this package.
    """
    if path is None:
        path = SHIPPED
    if (known := by_name.published(path)) is not None:
        return known.load()
    content = load(path)
    try:
        with _no_larger_than(content["state_dict"]):
            model = model_from(content)
        model = model.to(_TYPES[content["dtype"]])
        model.load_state_dict(content["state_dict"])
        for name, weights in model.named_parameters():
            if not weights.isfinite().all():
                raise ValueError(f"{name} holds numbers that are not finite")
        for one, state in zip(model.models(), content.get("domains", ()), strict=False):
            one.domain = state and Domain.from_state(state)
    except Exception as error:  # of many types, for what a damaged file may hold
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"the weights in {path} do not fit this version's model ({reason}): load it with the "
            "version that wrote it, or train again"
        ) from None
    if content["version"] < _METALS_KEEP_CHARGE:
        _check_metals(path, model)
    return model.eval()


@contextmanager
def _no_larger_than(state: dict[str, Any]) -> Iterator[None]:
    """Refuse to build layers that hold more numbers than the weights that are to fill them.

    Raises
    ------
    ValueError
        Inside, as soon as a layer's weights are too many; they have not taken memory then.
    """
    left = _SPARE + 2 * sum(value.numel() for value in state.values())
    mine = threading.get_ident()

    def count(module: Any, name: str, values: Any) -> None:
        nonlocal left
        if values is None or threading.get_ident() != mine:
            return
        left -= values.numel()
        if left < 0:
            raise ValueError(f"its sizes ask for more weights ({name}) than there are")

    hooks = [register_module_parameter_registration_hook(count)]
    hooks += [register_module_buffer_registration_hook(count)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _check_metals(path: str | Path, model: Potential) -> None:
    """Refuse a former model with local charges that knows metal ions: these spread theirs."""
    metals = [z for z in METAL_IONS if bool(model.known[z])]
    if metals and any(one.charges == "local" for one in model.models()):
        raise ValueError(
            f"{path} knows ions of {', '.join(map(symbol, metals))}, whose charges spread over "
            "their neighbours when it was trained, and no longer do: load it with the version that "
            "wrote it, or train again"
        )


def load_described(path: str | Path | None = None) -> Potential:
    """Load a model as `load_model` does, and warn where it does not say what it was trained on."""
    model = load_model(path)
    if model.domain is None and (known := by_name.published(path)) is not None:
        warnings.warn(known.caveat(), stacklevel=2)
    elif model.domain is None:
        warnings.warn(
            f"{path}: this checkpoint does not say what it was trained on, so nothing tells "
            "whether it knows what it computes: add that by `anisole domain CHECKPOINT DATA`",
            stacklevel=2,
        )
    return model


def model_from(description: dict[str, Any]) -> Potential:
    """Build a model, without weights, from its ``kind`` (default AMP) and ``config``.

    Arguments of `AMP` that did not exist when a checkpoint was written are set to what it computed.
    """
    kind, config = description.get("kind", "AMP"), description["config"]
    if kind == "AMP":
        config = as_it_was(config)
    model: Potential = _class_of(kind).from_config(config)
    return model


def _class_of(name: str) -> Any:
    if name not in _KINDS:
        raise ValueError(f"it holds a model of kind {name!r}, known are {', '.join(_KINDS)}")
    return getattr(import_module(_KINDS[name]), name)
