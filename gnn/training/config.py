"""Typed configuration of a training run, read from YAML; unknown keys are refused."""

import math
import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    AliasChoices,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from gnn.data.elements import atomic_number, symbol
from gnn.options import GROUPS, UnknownOption, from_config, option_names
from gnn.settings import Section, explain, keys_of, suggestion
from gnn.untrusted import read_yaml

Share = float | list[int] | list[str] | None
Files = str | list[str]
_EXTXYZ = (".xyz", ".extxyz")
_SECTIONS = (
    "data", "data.split", "model", *(f"model.{group}" for group in GROUPS), "loss", "training",
    "committee",
)  # fmt: skip
#: Largest difference in eV between two energies of one isolated atom.
SAME_ENERGY = 1e-3

#: Noise on the weights of a committee's members that start from one checkpoint, relative to the
#: root mean square of each tensor.
PERTURBATION = 0.03
#: Learning rate, by default, of weights that have learned already.
START_RATE = 5e-4

HomePath = Annotated[str, AfterValidator(os.path.expanduser)]


class SplitConfig(Section):
    """Which frames go where: fractions, or lists of runs, of blocks or of values of a key.

    All frames of `test_molecules` are in the test set, whatever the others say.
    """

    train: Share = None
    validation: Share = None
    test: Share = None
    test_molecules: list[str] | None = Field(default=None, min_length=1)
    by: Literal["run", "block", "frame", "key"] | None = None
    key: str | None = None
    seed: int = Field(default=0, ge=0)

    @field_validator("by", mode="before")
    @classmethod
    def _known_way(cls, way: Any) -> Any:
        if way not in (None, "run", "block", "frame", "key"):
            raise ValueError(
                f"expected run, block, frame or key, got {way!r}; a key of the file is named by "
                "'key'"
            )
        return way

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.by == "key" and self.key is None:
            raise ValueError("by: key needs the name of the key (key: config_type, say)")
        if self.key is not None and self.by not in (None, "key"):
            raise ValueError(f"key {self.key!r} and by: {self.by} are two ways: leave out one")
        return self

    @property
    def given(self) -> bool:
        """Whether anything but the seed is set."""
        return any(
            getattr(self, name) is not None for name in type(self).model_fields if name != "seed"
        )


class DataConfig(Section):
    """Frames to train on: the shipped set, or files in HDF5 or extxyz."""

    source: Files = "shipped"
    train: Files | None = None
    valid: Files | None = Field(default=None, validation_alias=AliasChoices("valid", "validation"))
    test: Files | None = None
    molecules: list[str] | None = Field(default=None, min_length=1)
    groups: list[str] | None = Field(default=None, min_length=1)
    head: str | Annotated[list[str], Field(min_length=1)] | None = None
    vacuum: bool = False
    pairs_at_rest: bool = False
    split: SplitConfig = SplitConfig()
    max_frames: int | None = Field(default=None, ge=1)
    keys: dict[str, str] = Field(default_factory=dict)
    isolated_atoms: dict[int, float] = Field(default_factory=dict)
    stream: bool = False
    stream_block: int = Field(default=256, ge=1)
    stream_buffer: int = Field(default=8, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _one_name(cls, values: Any) -> Any:
        if isinstance(values, dict) and {"valid", "validation"} <= values.keys():
            raise ValueError("'valid' and 'validation' are two names of one key: leave out one")
        return values

    @field_validator("isolated_atoms", mode="before")
    @classmethod
    def _by_atomic_number(cls, given: Any) -> Any:
        """Accept elements by symbol or by atomic number."""
        if not isinstance(given, dict):
            return given
        energies: dict[int, Any] = {}
        for element, energy in given.items():
            number = atomic_number(element)
            if number in energies:
                raise ValueError(f"element {element} is named twice")
            energies[number] = _energy_of(symbol(number), energy)
        return energies

    @field_validator("source", "train", "valid", "test")
    @classmethod
    def _some_file(cls, files: Files | None) -> Files | None:
        if files is not None and not all([files] if isinstance(files, str) else [*files, files]):
            raise ValueError(f"expected the path of a file, or a list of them, got {files!r}")
        return files

    @model_validator(mode="after")
    def _sets_are_given_once(self) -> Self:
        others = [name for name in ("valid", "test") if getattr(self, name) is not None]
        if self.train is None and others:
            raise ValueError(
                f"{' and '.join(others)}: a file for each set needs 'train' beside it (and no "
                "'source')"
            )
        if self.train is not None and self.source != "shipped":
            raise ValueError(
                "name files by 'source', which is split, or by 'train', 'valid' and 'test', not "
                "by both"
            )
        if self.train is not None and self.split.given:
            raise ValueError(
                "with a file for each set ('train') nothing is split: leave out 'split'"
            )
        return self

    @model_validator(mode="after")
    def _keys_are_for_extxyz(self) -> Self:
        files = [file for files in self.files() for file in files]
        if self.keys and not any(Path(file).suffix.lower() in _EXTXYZ for file in files):
            raise ValueError(
                f"keys can be renamed for extxyz files only, and source is {', '.join(files)!r}"
            )
        if self.split.key is not None and self.keys.get("group", self.split.key) != self.split.key:
            raise ValueError(
                f"keys: group is {self.keys['group']!r}, but split.key is {self.split.key!r}"
            )
        return self

    @property
    def heads(self) -> list[str] | None:
        """The levels of theory that are wanted; None for the only one that is there."""
        return [self.head] if isinstance(self.head, str) else self.head

    def files(self) -> list[list[str]]:
        """Return what is named as training, validation and test files, or as the one source."""
        named = [self.source] if self.train is None else [self.train, self.valid, self.test]
        return [[f] if isinstance(f, str) else list(f) for f in named if f is not None]


class LossConfig(Section):
    """Weights of the mean squared errors, in eV², (eV/Å)², (e Å)² and, of cells, (eV/Å³)²."""

    energy: float = Field(default=1.0, ge=0)
    forces: float = Field(default=1.0, ge=0)
    mm_forces: float = Field(default=100.0, ge=0)
    dipole: float = Field(default=5.0, ge=0)
    stress: float = Field(default=1000.0, ge=0)
    linear_beyond: float | None = Field(default=None, gt=0)


class TrainingConfig(Section):
    """The optimiser and its schedule; when to validate, to write checkpoints and to stop."""

    epochs: int = Field(default=500, ge=1)
    time_limit: float | None = Field(default=None, gt=0)
    batch_size: int = Field(default=8, ge=1)
    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = Field(default=2e-3, gt=0)
    min_learning_rate: float = Field(default=2e-5, ge=0)
    schedule: Literal["cosine", "exponential", "constant"] = "cosine"
    warmup_steps: int = Field(default=100, ge=0)
    weight_decay: float = Field(default=0.0, ge=0)
    clip: float = Field(default=10.0, gt=0)
    ema: float = Field(default=0.995, ge=0, lt=1)
    patience: int | None = Field(default=None, ge=1)
    validate_every: int = Field(default=5, ge=1)
    checkpoint_every: int = Field(default=5, ge=1)
    checkpoint_seconds: float | None = Field(default=600.0, gt=0)
    collective_timeout: float = Field(default=600.0, gt=0)
    seed: int = Field(default=0, ge=0)
    dtype: Literal["float32", "float64"] = "float32"
    threads: int | None = Field(default=None, ge=1)
    device: Literal["cpu", "cuda", "auto"] = "cpu"
    tensorboard: bool = False

    @model_validator(mode="after")
    def _rates_in_order(self) -> Self:
        if self.min_learning_rate > self.learning_rate:
            raise ValueError(
                f"min_learning_rate {self.min_learning_rate:g} is above learning_rate "
                f"{self.learning_rate:g}: lower it"
            )
        return self


class CommitteeConfig(Section):
    """How many models to train, and how they are made to differ.

    By default members that start from one checkpoint are perturbed and learn from frames drawn for
    each; others, which start from random weights, learn from the same frames.
    """

    members: int = Field(default=1, ge=1)
    bootstrap: bool | None = None
    perturbation: float | None = Field(default=None, ge=0)


class Config(Section):
    """A whole run."""

    data: DataConfig = DataConfig()
    model: dict[str, Any] = Field(default_factory=dict)
    loss: LossConfig = LossConfig()
    training: TrainingConfig = TrainingConfig()
    committee: CommitteeConfig = CommitteeConfig()
    start: HomePath | None = None
    output: HomePath = "runs/train"

    @model_validator(mode="before")
    @classmethod
    def _start_learns_slowly(cls, values: Any) -> Any:
        """Give weights that have learned already another learning rate, unless one is named."""
        if not isinstance(values, dict) or values.get("start") is None:
            return values
        training = values.get("training") or {}
        if not isinstance(training, dict) or training.get("learning_rate") is not None:
            return values
        return values | {"training": training | {"learning_rate": START_RATE}}

    @model_validator(mode="after")
    def _start_has_its_own_model(self) -> Self:
        if self.start is not None and self.model:
            raise ValueError(
                f"start: the checkpoint {self.start} brings its architecture with it: leave out "
                "the section 'model'"
            )
        return self

    @property
    def perturbation(self) -> float:
        """Standard deviation of the noise on a committee's first weights, relative to these."""
        chosen = self.committee.perturbation
        if self.committee.members == 1 or self.start is None:
            return 0.0
        return PERTURBATION if chosen is None else chosen

    @property
    def bootstrap(self) -> bool:
        """Whether each member of the committee learns from frames drawn with replacement."""
        chosen = self.committee.bootstrap
        return self.start is not None if chosen is None else chosen


def _energy_of(element: str, energy: Any) -> float:
    try:
        value = math.nan if isinstance(energy, bool) else float(energy)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"the energy of {element} should be a number in eV, got {energy!r}")
    return value


def changed(config: Config, changes: dict[str, Any], name: str = "configuration") -> Config:
    """Return a configuration with some settings changed, defaults following from them.

    Parameters
    ----------
    config
        As it was given.
    changes
        Settings, those of a section as a dictionary.
    name
        Of the file, for messages.

    Raises
    ------
    ValueError
        If they do not go together.
    """
    content = config.model_dump(exclude_unset=True)
    for key, value in changes.items():
        section = isinstance(value, dict)
        content[key] = content.get(key, {}) | value if section else value
    return parse_config(content, name)


def load_config(path: str | Path) -> Config:
    """Read a configuration from a YAML file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no YAML, holds an unknown key (the nearest known one is suggested), or a value
        of the wrong type.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no configuration at {path}: give the path of a YAML file")
    content = read_yaml(path)
    return parse_config(content if content is not None else {}, str(path))


def parse_config(content: Any, name: str = "configuration") -> Config:
    """Build a configuration from nested dictionaries; see `load_config`."""
    if not isinstance(content, dict):
        raise ValueError(f"{name}: expected sections such as 'data:', got {type(content).__name__}")
    try:
        config = Config.model_validate(content)
    except ValidationError as error:
        raise ValueError(f"{name}: {explain(error, Config, _suggest)}") from None
    _check_model(config.model, name)
    return config


def _suggest(place: list[str]) -> str:
    """Name the section that an unknown key belongs to, or the nearest key of this one."""
    key = place[-1]
    for section in _SECTIONS:
        if [section] != place[:1] and key in _keys(section.split(".")):
            return f"; did you mean '{section}.{key}'?"
    return suggestion(key, _keys(place[:-1]))


def _keys(place: list[str]) -> list[str]:
    if place[:1] == ["model"]:
        return option_names(*place[1:])
    return keys_of(Config, place)


def _check_model(options: dict[str, Any], name: str) -> None:
    try:
        from_config(options)
    except UnknownOption as error:
        key = error.name.rpartition(".")[2]
        near = suggestion(key, error.known)
        raise ValueError(f"{name}: unknown key 'model.{error.name}'{near}") from None
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: model: {error}") from None
