"""Typed configuration of a training run, read from YAML; unknown keys are refused."""

import difflib
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Share = float | list[int] | None
_BRANCHES = ("float", "list[int]")  # how pydantic names the alternatives of Share


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _empty_means_default(cls, values: Any) -> Any:
        """Take a key with nothing behind it (None in YAML) as not given."""
        if not isinstance(values, dict):
            return values
        return {k: v for k, v in values.items() if v is not None or k not in cls.model_fields}


class SplitConfig(_Section):
    """Which molecular-dynamics runs go where: fractions, or lists of runs or blocks."""

    train: Share = None
    validation: Share = None
    test: Share = None
    by: Literal["run", "block"] = "run"
    seed: int = 0


class DataConfig(_Section):
    """Frames to train on: the shipped set, or a file in HDF5 or extxyz."""

    source: str = "shipped"
    molecules: list[str] | None = None
    vacuum: bool = False
    split: SplitConfig = SplitConfig()
    max_frames: int | None = Field(default=None, ge=1)
    keys: dict[str, str] = {}
    stream: bool = False
    stream_block: int = Field(default=256, ge=1)
    stream_buffer: int = Field(default=8, ge=1)

    @model_validator(mode="after")
    def _keys_are_for_extxyz(self) -> Self:
        if self.keys and Path(self.source).suffix.lower() not in (".xyz", ".extxyz"):
            raise ValueError(
                f"keys can be renamed for extxyz files only, and source is {self.source!r}"
            )
        return self


class LossConfig(_Section):
    """Weights of the mean squared errors: energy in eV² per system, forces in (eV/Å)², e²Å²."""

    energy: float = Field(default=1.0, ge=0)
    forces: float = Field(default=1.0, ge=0)
    mm_forces: float = Field(default=100.0, ge=0)
    dipole: float = Field(default=5.0, ge=0)


class TrainingConfig(_Section):
    """The optimiser, its schedule, and when to look, to save and to stop."""

    epochs: int = Field(default=500, ge=1)
    time_limit: float | None = Field(default=None, gt=0)
    batch_size: int = Field(default=8, ge=1)
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
    seed: int = 0
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


class CommitteeConfig(_Section):
    """How many models to train, and whether each gets molecular-dynamics runs of its own."""

    members: int = Field(default=1, ge=1)
    bootstrap: bool = False


class Config(_Section):
    """A whole run."""

    data: DataConfig = DataConfig()
    model: dict[str, Any] = {}
    loss: LossConfig = LossConfig()
    training: TrainingConfig = TrainingConfig()
    committee: CommitteeConfig = CommitteeConfig()
    start: str | None = None
    output: str = "runs/train"

    @model_validator(mode="after")
    def _start_has_its_own_model(self) -> Self:
        if self.start is not None and self.model:
            raise ValueError(
                f"start: the checkpoint {self.start} brings its architecture with it: leave out "
                "the section 'model'"
            )
        return self


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
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from None
    return parse_config(content if content is not None else {}, str(path))


def parse_config(content: Any, name: str = "configuration") -> Config:
    """Build a configuration from nested dictionaries; see `load_config`."""
    if not isinstance(content, dict):
        raise ValueError(f"{name}: expected sections such as 'data:', got {type(content).__name__}")
    try:
        config = Config.model_validate(content)
    except ValidationError as error:
        raise ValueError(f"{name}: {_explain(error)}") from None
    _check_model(config.model, name)
    return config


def _explain(error: ValidationError) -> str:
    """Say in one line what is wrong, once for each place."""
    found: dict[str, list[str]] = {}
    given: dict[str, Any] = {}
    unknown = []  # and what else is said in full
    for problem in error.errors():
        place = [str(part) for part in problem["loc"] if part not in _BRANCHES]
        where = ".".join(place) or "keys"
        if problem["type"] == "extra_forbidden":
            unknown.append(f"unknown key '{where}'" + _suggestion(place[-1], _keys(place[:-1])))
            continue
        message = problem["msg"].removeprefix("Input ").split(", unable")[0]
        if problem["type"] == "model_type":
            message = f"should be a section with keys ({', '.join(_keys(place))})"
        if problem["type"] == "value_error":  # values that do not go together; named in it
            unknown.append(f"{where}: {message.removeprefix('Value error, ')}")
            continue
        found.setdefault(where, []).append(message)
        given[where] = problem["input"]
    wrong = [f"{where}: {' or '.join(m)}, got {given[where]!r}" for where, m in found.items()]
    return "; ".join(unknown + wrong)


def _keys(place: list[str]) -> list[str]:
    section: Any = Config
    for part in place:
        section = section.model_fields[part].annotation
    return list(section.model_fields)


def _check_model(options: dict[str, Any], name: str) -> None:
    from gnn.model import AMP, check_arguments

    known = AMP.argument_defaults()
    for key in options:
        if key not in known:
            raise ValueError(f"{name}: unknown key 'model.{key}'" + _suggestion(key, list(known)))
    try:
        check_arguments(known | options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: model: {error}") from None


def _suggestion(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean '{near[0]}'?" if near else f"; known keys: {', '.join(known)}"
