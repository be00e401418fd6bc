"""Configuration files: defaults, unknown keys, wrong values."""

import math

import pytest

from gnn.training.config import Config, load_config, parse_config
from gnn.training.demo import demo_config


def _write(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("text", ["", "# only a remark\n", "data:\nmodel:\n", "{}"])
def test_empty_file_and_empty_sections_mean_the_defaults(tmp_path, text):
    assert load_config(_write(tmp_path, text)) == Config()


def test_values_are_read(tmp_path):
    config = load_config(
        _write(
            tmp_path,
            """
            data: {source: mine.h5, molecules: [a], split: {train: [1, 2], test: [3]}}
            model: {order: 1, cutoff: 4}
            loss: {energy: 0.5}
            training: {epochs: 3, learning_rate: 1e-3, dtype: float64}
            output: somewhere
            """,
        )
    )
    assert config.data.split.train == [1, 2] and config.data.split.validation is None
    assert config.model == {"order": 1, "cutoff": 4}
    assert config.training.learning_rate == 1e-3  # text to YAML, which wants 1.0e-3
    assert config.output == "somewhere"


@pytest.mark.parametrize(
    ("content", "place", "suggestion"),
    [
        ({"trainig": {}}, "trainig", "training"),
        ({"data": {"sorce": "x"}}, "data.sorce", "source"),
        ({"data": {"split": {"trian": [1]}}}, "data.split.trian", "train"),
        ({"loss": {"energi": 1.0}}, "loss.energi", "energy"),
        ({"training": {"epoch": 3}}, "training.epoch", "epochs"),
        ({"model": {"chanels": 3}}, "model.chanels", "channels"),
        ({"model": {"network": {"hiden": 3}}}, "model.network.hiden", "hidden"),
    ],
)
def test_unknown_key_is_refused_with_the_nearest_known(content, place, suggestion):
    with pytest.raises(ValueError, match=f"unknown key '{place}'; did you mean '{suggestion}'"):
        parse_config(content)


@pytest.mark.parametrize(
    ("content", "suggestion"),
    [
        ({"epochs": 3}, "training.epochs"),
        ({"data": {"cutoff": 5.0}}, "model.cutoff"),
        ({"training": {"members": 2}}, "committee.members"),
        ({"source": "x.xyz"}, "data.source"),
        ({"data": {"key": "kind"}}, "data.split.key"),
        ({"training": {"n_radial": 4}}, "model.network.n_radial"),
        ({"data": {"train_file": "x.xyz"}}, "train"),
    ],
)
def test_a_key_of_another_section_is_named_with_its_section(content, suggestion):
    with pytest.raises(ValueError, match=f"unknown key.*did you mean '{suggestion}'"):
        parse_config(content)


def test_unknown_key_like_no_other_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown key 'loss\.qqq'; known keys: energy, forces"):
        parse_config({"loss": {"qqq": 1}})


def test_all_mistakes_are_named_at_once():
    with pytest.raises(ValueError) as caught:
        parse_config({"loss": {"energi": 1}, "training": {"epochs": -1}}, "my.yaml")
    text = str(caught.value)
    assert text.startswith("my.yaml: ")
    assert "loss.energi" in text and "training.epochs" in text and "got -1" in text


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ({"training": {"epochs": "many"}}, "training.epochs"),
        ({"training": {"epochs": 0}}, "training.epochs"),
        ({"training": {"ema": 1.0}}, "training.ema"),
        ({"training": {"schedule": "linear"}}, "training.schedule"),
        ({"training": {"learning_rate": float("nan")}}, "training.learning_rate"),
        ({"training": 5}, "training"),
        ({"loss": {"energy": -1}}, "loss.energy"),
        ({"data": {"split": {"train": "most"}}}, "data.split.train"),
        ({"data": {"molecules": "meoh"}}, "data.molecules"),
        ({"model": 3}, "model"),
        ({"model": {"order": 7}}, "model"),
        ({"model": {"channels": "16"}}, "model"),
        ({"model": {"cutoff": -1.0}}, "model"),
        ({"model": {"method": "fortran"}}, "model: expected method to be one of"),
        ({"model": {"backend": "fortran"}}, "model: expected backend to be one of"),
        ({"model": {"network": {"hidden": 0}}}, "model: expected network.hidden"),
        ({"model": {"network": 64}}, "model: expected network with options"),
    ],
)
def test_wrong_values_are_refused_with_their_place(content, place):
    with pytest.raises(ValueError, match=place) as caught:
        parse_config(content)
    assert "\n" not in str(caught.value)


def test_one_mistake_in_a_choice_of_types_is_one_line():
    with pytest.raises(ValueError) as caught:
        parse_config({"data": {"split": {"train": "most"}}})
    text = str(caught.value)
    assert "data.split.train: " in text and "list" in text and text.count("most") == 1


@pytest.mark.parametrize("text", ["- a\n- b\n", "just words", "3"])
def test_content_without_sections_is_refused(tmp_path, text):
    with pytest.raises(ValueError, match="expected sections"):
        load_config(_write(tmp_path, text))


def test_broken_yaml_names_the_file(tmp_path):
    with pytest.raises(ValueError, match=r"run\.yaml is not valid YAML"):
        load_config(_write(tmp_path, "data: [1, 2"))


def test_binary_file_is_refused(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_bytes(bytes(range(256)))
    with pytest.raises(ValueError, match=r"run\.yaml is not valid YAML"):
        load_config(path)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no configuration at"):
        load_config(tmp_path / "none.yaml")


def test_demo_configuration():
    config = demo_config(None, 100.0, 7)
    assert config.output == "runs/demo" and config.data.source == "shipped"
    assert config.training.seed == 7
    assert 0 < config.training.time_limit <= 100
    assert demo_config("elsewhere", 100.0, 0).output == "elsewhere"


@pytest.mark.parametrize("key", ["learning_rate", "time_limit", "clip"])
def test_infinite_settings_are_refused(key):
    with pytest.raises(ValueError, match=f"training.{key}.*finite"):
        parse_config({"training": {key: math.inf}})


def test_rates_in_the_wrong_order_are_refused():
    with pytest.raises(ValueError, match=r"min_learning_rate 1 is above learning_rate 0\.002"):
        parse_config({"training": {"min_learning_rate": 1.0}})
