"""Options of AMP: groups, dictionaries, and the names that they had before."""

import pytest
import torch

from gnn import AMP, System
from gnn.operators import edges, evaluators
from gnn.options import (
    BACKENDS,
    METHODS,
    Electrostatics,
    LongRange,
    Network,
    Surroundings,
    UnknownOption,
    from_config,
    option_names,
)
from gnn.training.checkpoint import SHIPPED, load, load_model, model_state, save

#: The configuration in the checkpoint of a model before there were groups.
FORMER = {
    "order": 1, "channels": 3, "features": 8, "steps": 1, "cutoff": 4.5, "edge_features": 6,
    "hidden": 7, "mixed": 5, "n_radial": 4, "surroundings_in_messages": False,
    "mm_electrostatics": True, "qm_electrostatics": True, "long_range": True, "long_channels": 2,
    "damping": 2.5, "smearing": [1.1, 0.9], "qm_damping": 0.6, "method": "numba",
    "field_method": "direct", "field_tolerance": 1e-5, "edge_method": None, "split": False,
}  # fmt: skip
MODERN = {
    "order": 1, "channels": 3, "features": 8, "steps": 1, "cutoff": 4.5,
    "network": Network(7, 6, 5, 4, False),
    "surroundings": Surroundings(False, True, 2.5, (1.1, 0.9)),
    "electrostatics": Electrostatics(0.6), "long_range": LongRange(2), "method": "direct",
    "tolerance": 1e-5, "backend": "compiled",
}  # fmt: skip


def test_names_are_those_of_the_arguments():
    assert option_names() == list(AMP.argument_defaults())
    assert set(METHODS) == set(evaluators.METHODS) and set(BACKENDS) == set(edges.BACKENDS)


def test_configurations_come_back():
    for arguments in ({}, MODERN, MODERN | {"electrostatics": None, "long_range": None}):
        config = AMP(**arguments).config()
        assert AMP.from_config(config).config() == config
        assert from_config(config) == AMP.argument_defaults() | arguments


def test_former_names_are_understood():
    assert from_config(FORMER) == MODERN
    assert from_config({}) == {}
    off = from_config(FORMER | {"qm_electrostatics": False, "long_range": False})
    assert off["electrostatics"] is None and off["long_range"] is None
    twin = from_config(FORMER | {"method": "torch", "field_method": "fmm"})
    assert (twin["backend"], twin["method"]) == ("torch", "direct")
    some = from_config({"hidden": 9, "qm_damping": 0.4, "long_channels": 3, "method": "fmm"})
    assert some == {
        "network": Network(hidden=9), "electrostatics": Electrostatics(0.4), "method": "fmm",
    }  # fmt: skip


def test_groups_in_files_may_be_switched():
    given = from_config({"electrostatics": False, "long_range": True})
    assert given == {"electrostatics": None, "long_range": LongRange()}
    assert from_config({"long_range": {}}) == {"long_range": LongRange()}


def test_a_former_checkpoint_gives_the_same_numbers(tmp_path):
    torch.manual_seed(0)
    former = {"walls": None, "long_range": LongRange(2, "free"), "charges": "shared"}
    model = AMP(**MODERN | former).double()
    content = model_state(model) | {"version": 2, "config": FORMER}
    save(tmp_path / "former.pt", content)
    again = load_model(tmp_path / "former.pt")
    system = System([8, 1, 1], [[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]], 0, [[0, 0, 4]], [0.5])
    one, two = model.evaluate([system])[0], again.evaluate([system])[0]
    assert one["energy"] == two["energy"] and (one["forces"] == two["forces"]).all()


def test_options_of_the_model_that_ships():
    assert load(SHIPPED)["config"]["network"]["hidden"] == 96
    config = load_model().config()
    assert config["network"]["hidden"] == 96 and config["charges"] == "local" and config["walls"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"chanels": 3}, "unknown option 'chanels'; known are order, channels"),
        ({"network": {"width": 3}}, "unknown option 'network.width'; known are hidden, edge"),
    ],
)
def test_unknown_options_are_refused_with_the_known(config, message):
    with pytest.raises(UnknownOption, match=message):
        AMP.from_config(config)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"network": False}, "expected network with options"),
        ({"network": None}, "expected network with options"),
        ({"long_range": 3}, "expected long_range with options"),
        ({"network": {"split": 1}}, "network.split"),
        ({"network": {"mixed": 0}}, "network.mixed"),
        ({"surroundings": {"in_energy": None}}, "surroundings.in_energy"),
        ({"surroundings": {"damping": 1.0}}, "surroundings.smearing"),
        ({"electrostatics": {"damping": 0}}, "electrostatics.damping"),
        ({"long_range": {"channels": 1.5}}, "long_range.channels"),
        ({"long_range": {"monopoles": "shared"}}, "long_range.monopoles"),
        ({"tolerance": 2.0}, "expected tolerance from 1e-14 to below 1, got 2.0"),
        ({"backend": "torch", "method": "fmm"}, "method 'fmm' is compiled"),
        ({"method": ["fmm"]}, r"expected method to be one of .*got \['fmm'\]"),
        ({"surroundings": {"smearing": 1.2}}, "expected surroundings.smearing as a list"),
        ({"smearing": "1.2"}, "expected surroundings.smearing as a list"),
        ({"hidden": 3, "network": {"hidden": 4}}, "'hidden' and 'network.hidden' are two names"),
        ({"field_method": "direct", "method": "fmm"}, "'field_method' and 'method' are two names"),
        ({"method": "numba", "backend": "torch"}, "'method' and 'backend' are two names"),
    ],
)
def test_wrong_values_are_named(config, message):
    with pytest.raises(ValueError, match=message):
        AMP.from_config(config)


def test_a_group_of_another_class_is_refused():
    with pytest.raises(TypeError, match="expected long_range as LongRange or None, got True"):
        AMP(long_range=True)
    with pytest.raises(TypeError, match="expected network as Network, got"):
        AMP(network={"hidden": 8})
