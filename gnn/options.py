"""The options of `gnn.AMP` in groups, and as dictionaries in checkpoints and YAML files."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any

METHODS = ("auto", "direct", "fmm")
BACKENDS = ("compiled", "torch")
CHARGES = ("local", "shared")
MONOPOLES = ("local", "free")

# --- checks of single options ---------------------------------------------------------------------


def _check_count(name: str, value: Any) -> None:
    if type(value) is not int or value < 1:
        raise ValueError(f"expected {name} to be a positive integer, got {value!r}")


def _check_positive(name: str, value: Any) -> None:
    if type(value) not in (int, float) or not 0 < value < math.inf:
        raise ValueError(f"expected {name} to be a finite number > 0, got {value!r}")


def _check_tolerance(name: str, value: Any) -> None:
    if type(value) not in (int, float) or not 1e-14 <= value < 1:
        raise ValueError(f"expected {name} from 1e-14 to below 1, got {value!r}")


def _check_choice(name: str, value: Any, choices: tuple) -> None:
    if value not in choices or type(value) is not type(choices[0]):
        raise ValueError(f"expected {name} to be one of {choices}, got {value!r}")


_check_switch = partial(_check_choice, choices=(True, False))

# --- groups ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Network:
    """Sizes of the dense networks and of what enters them.

    Parameters
    ----------
    hidden : int
        Width of hidden layers.
    edge_features : int
        Width of the edge features.
    mixed : int
        Number of linear combinations of invariants that enter messages and coefficients.
    n_radial : int
        Number of radial basis functions.
    split : bool
        Compute the node parts of edge networks once per node (exact; False is the slow twin).
    """

    hidden: int = 64
    edge_features: int = 32
    mixed: int = 32
    n_radial: int = 8
    split: bool = True

    def __post_init__(self) -> None:
        for name in ("hidden", "edge_features", "mixed", "n_radial"):
            _check_count(f"network.{name}", getattr(self, name))
        _check_switch("network.split", self.split)


@dataclass(frozen=True)
class Surroundings:
    """How atoms feel what is around the molecule: charges or multipoles, and given fields.

    Parameters
    ----------
    in_messages : bool
        Let the field of the surroundings enter the network.
    in_energy : bool
        Let the field do work on the atoms' physical multipoles.
    damping : float
        Surrounding charges act as Gaussians of this inverse width in 1/Å (erf(a r) / r): true
        point charges beyond contact distance, finite on top of an atom.
    smearing : sequence of float
        Inverse widths in 1/Å of wider Gaussians through which the atoms also see the
        surroundings: electron density reaches out to nearby charges, and feels less of them than
        a nucleus would. For each of them, further multipoles are read from the state, and do
        work in the difference of the two fields, which is short-ranged.
    """

    in_messages: bool = True
    in_energy: bool = True
    damping: float = 2.0
    smearing: Sequence[float] = (1.2,)

    def __post_init__(self) -> None:
        _check_switch("surroundings.in_messages", self.in_messages)
        _check_switch("surroundings.in_energy", self.in_energy)
        _check_positive("surroundings.damping", self.damping)
        if not isinstance(self.smearing, Sequence) or isinstance(self.smearing, str):
            raise ValueError(
                f"expected surroundings.smearing as a list of numbers, got {self.smearing!r}"
            )
        object.__setattr__(self, "smearing", tuple(self.smearing))  # lists come from files
        if not all(type(a) in (int, float) and 0 < a < self.damping for a in self.smearing):
            raise ValueError(
                f"expected surroundings.smearing of numbers between 0 and damping "
                f"({self.damping}), got {list(self.smearing)!r}"
            )


@dataclass(frozen=True)
class Electrostatics:
    """Interaction of the atoms' physical multipoles with each other.

    Parameters
    ----------
    damping : float
        Multipoles act as Gaussians of this inverse width in 1/Å; interactions at shorter range
        are the network's.
    """

    damping: float = 0.5

    def __post_init__(self) -> None:
        _check_positive("electrostatics.damping", self.damping)


@dataclass(frozen=True)
class LongRange:
    """Field of all other atoms' anisotropic states, which enters every update of the nodes.

    Parameters
    ----------
    channels : int
        Number of channels, mixed from those of the state, that make this field.
    monopoles : {"local", "free"}
        Monopoles of this field add up to the given charges in each connected part of the graph, as
        charges do that move along edges; or to whatever the states have, as before there was a
        choice.
    """

    channels: int = 4
    monopoles: str = "local"

    def __post_init__(self) -> None:
        _check_count("long_range.channels", self.channels)
        _check_choice("long_range.monopoles", self.monopoles, MONOPOLES)


@dataclass(frozen=True)
class Walls:
    """What the model does beyond the distances and fields it was trained on.

    Atoms, and surrounding charges and atoms, that are closer than any of their elements in training
    repel, and the network sees them hardly closer than that; fields larger than any in training
    saturate. Within the trained extent (`gnn.AMP.set_extent`) nothing of this acts.

    Parameters
    ----------
    width : float
        Å; by how much distances that the network sees may fall below the shortest trained one.
    stiffness : float
        eV/Å³, and per e for charges; the repulsion is that of screened nuclei, which fades in,
        and this times the third power of what is missing to the shortest distance.
    saturation : float
        How many times larger than in training the fields are that the network may see at most;
        more than one.
    """

    width: float = 0.05
    stiffness: float = 100.0
    saturation: float = 1.5

    def __post_init__(self) -> None:
        _check_positive("walls.width", self.width)
        _check_positive("walls.stiffness", self.stiffness)
        _check_positive("walls.saturation", self.saturation)
        if self.saturation <= 1:
            raise ValueError(f"expected walls.saturation above 1, got {self.saturation!r}")


@dataclass(frozen=True)
class Dispersion:
    """London dispersion between the atoms, computed by a library and added to the energy.

    Parameters
    ----------
    method : {"d3bj", "d4"}
        D3 with Becke–Johnson damping (library dftd3), or D4 (dftd4).
    functional : str
        Density functional that the labels without dispersion come from, as the library names it.
    """

    method: str = "d3bj"
    functional: str = "b3lyp"

    def __post_init__(self) -> None:
        _check_choice("dispersion.method", self.method, ("d3bj", "d4"))
        if not isinstance(self.functional, str) or not self.functional.strip():
            raise ValueError(
                f"expected dispersion.functional as the name of one, got {self.functional!r}"
            )


GROUPS: dict[str, Any] = {
    "network": Network,
    "surroundings": Surroundings,
    "electrostatics": Electrostatics,
    "long_range": LongRange,
    "walls": Walls,
    "dispersion": Dispersion,
}
_OPTIONAL = ("electrostatics", "long_range", "walls", "dispersion")
#: What checkpoints lack that were written before an argument existed, with what they computed.
FORMER_DEFAULTS: dict[str, Any] = {"walls": None, "charges": "shared"}
_FORMER_LONG_RANGE = {"monopoles": "free"}


def _check_group(name: str, value: Any) -> None:
    kind = GROUPS[name]
    if not isinstance(value, kind) and not (value is None and name in _OPTIONAL):
        choice = " or None" if name in _OPTIONAL else ""
        raise TypeError(f"expected {name} as {kind.__name__}{choice}, got {value!r}")


_CHECKS: dict[str, Callable[[str, Any], None]] = {
    "order": partial(_check_choice, choices=(0, 1, 2, 3)),
    "channels": _check_count,
    "features": _check_count,
    "steps": _check_count,
    "cutoff": _check_positive,
    **dict.fromkeys(GROUPS, _check_group),
    "charges": partial(_check_choice, choices=CHARGES),
    "method": partial(_check_choice, choices=METHODS),
    "tolerance": _check_tolerance,
    "backend": partial(_check_choice, choices=BACKENDS),
}


def check(arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that `AMP` cannot be built from; those not given have their defaults.

    Raises
    ------
    ValueError
        If a value is wrong, or the method has no torch backend.
    TypeError
        If a group is not of its class.
    """
    for name, value in arguments.items():
        _CHECKS[name](name, value)
    if arguments.get("backend") == "torch" and arguments.get("method") == "fmm":
        raise ValueError("method 'fmm' is compiled: expected backend 'compiled', got 'torch'")


# --- dictionaries ---------------------------------------------------------------------------------


class UnknownOption(ValueError):
    """An option that `AMP` does not have.

    Attributes
    ----------
    name : str
        The option, ``group.option`` within a group.
    known : list of str
        The options that there are in its place.
    """

    def __init__(self, name: str, known: Sequence[str]):
        super().__init__(f"unknown option '{name}'; known are {', '.join(known)}")
        self.name, self.known = name, list(known)


def option_names(group: str | None = None) -> list[str]:
    """Return the names of the arguments of `AMP`, or of the options in a group."""
    return list(_CHECKS) if group is None else [field.name for field in fields(GROUPS[group])]


def to_config(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments of `AMP` as plain values, groups as dictionaries."""
    return {k: asdict(v) if k in GROUPS and v is not None else v for k, v in arguments.items()}


def from_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `AMP` that a dictionary holds: the inverse of `to_config`.

    A group is a dictionary of some of its options. `electrostatics`, `long_range`, `walls` and
    `dispersion` may also be true, with all defaults, and false or None, which leaves them out.
    Names that options had before there were groups are understood.

    Raises
    ------
    UnknownOption
        If there is no such option.
    ValueError, TypeError
        If a value is wrong, or an option stands under its former and its present name.
    """
    arguments = _renamed(config)
    for name, value in arguments.items():
        if name not in _CHECKS:
            raise UnknownOption(name, option_names())
        if name in GROUPS:
            arguments[name] = _group(name, value)
    check(arguments)
    return arguments


def _group(name: str, value: Any) -> Any:
    if name in _OPTIONAL and (value is None or value is False):
        return None
    options = {} if name in _OPTIONAL and value is True else value
    if not isinstance(options, Mapping):
        raise ValueError(f"expected {name} with options ({', '.join(option_names(name))}), "
                         f"got {value!r}")  # fmt: skip
    for option in options:
        if option not in option_names(name):
            raise UnknownOption(f"{name}.{option}", option_names(name))
    return GROUPS[name](**options)


def as_it_was(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of a checkpoint with what it computed where it says nothing."""
    former = {**FORMER_DEFAULTS, **config}
    if group := former.get("long_range"):
        former["long_range"] = {**_FORMER_LONG_RANGE, **({} if group is True else group)}
    return former


#: Names of options before there were groups, with their group and name in it.
_FORMER = {name: ("network", name) for name in option_names("network")} | {
    "surroundings_in_messages": ("surroundings", "in_messages"),
    "mm_electrostatics": ("surroundings", "in_energy"),
    "damping": ("surroundings", "damping"),
    "smearing": ("surroundings", "smearing"),
    "qm_damping": ("electrostatics", "damping"),
    "long_channels": ("long_range", "channels"),
}
_FORMER_NAMES = {
    "qm_electrostatics": "electrostatics",
    "field_method": "method",
    "field_tolerance": "tolerance",
}


def _renamed(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return options under the names of today."""
    former = dict(config)
    former.pop("edge_method", None)  # said how, not what, was computed
    if former.get("method") in ("numba", "torch"):  # `method` was what `backend` is
        _check_single("method", former, "backend")
        former["backend"] = "compiled" if former.pop("method") == "numba" else "torch"
        if former["backend"] == "torch":
            former["field_method"] = "direct"
    for name in _FORMER_NAMES.keys() & former.keys():
        _check_single(name, former, _FORMER_NAMES[name])
    options = {_FORMER_NAMES.get(k, k): v for k, v in former.items() if k not in _FORMER}
    for name in _FORMER.keys() & former.keys():
        group, option = _FORMER[name]
        section = options.get(group, group != "long_range")
        if section is True or isinstance(section, Mapping):
            section = {} if section is True else section
            _check_single(name, section, option, f"{group}.")
            options[group] = {**section, option: former[name]}
    return options


def _check_single(former: str, section: Mapping[str, Any], option: str, prefix: str = "") -> None:
    if option in section:
        raise ValueError(
            f"'{former}' and '{prefix}{option}' are two names of one option: leave out one"
        )
