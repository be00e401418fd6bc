import pytest

from gnn.data.splits import split_by_run
from gnn.data.systems import Frame, System

SYSTEM = System([2], [[0.0, 0.0, 0.0]])


def make(runs, name="a", each=2):
    return [Frame(SYSTEM, energy=float(i), run=run, name=name) for run in runs for i in range(each)]


def runs_of(frames, name=None):
    return sorted({frame.run for frame in frames if name in (None, frame.name)})


BLOCKS = (100, 101, 200, 201, 300, 301, 400, 401)


def test_default_holds_out_the_last_block():
    frames = make(BLOCKS) + make((100, 200, 300, 400), "b")
    train, validation, test = split_by_run(frames)
    assert runs_of(train, "a") == [100, 101, 200, 201, 300]
    assert runs_of(validation, "a") == [301]
    assert runs_of(test, "a") == [400, 401]
    assert [runs_of(part, "b") for part in (train, validation, test)] == [[100, 200], [300], [400]]
    assert len(train) + len(validation) + len(test) == len(frames)


def test_seed_rotates_the_blocks():
    tests = [runs_of(split_by_run(make(BLOCKS), seed=seed)[2]) for seed in range(4)]
    assert tests == [[400, 401], [300, 301], [200, 201], [100, 101]]


@pytest.mark.parametrize("seed", range(5))
def test_fractions_never_cut_a_run(seed):
    frames = make(range(10)) + make(range(5, 9), "b")
    parts = split_by_run(frames, 0.5, 0.2, 0.3, seed=seed)
    again = split_by_run(frames, 0.5, 0.2, 0.3, seed=seed)
    assert [[id(f) for f in part] for part in parts] == [[id(f) for f in part] for part in again]
    for name in "ab":
        train, validation, test = (set(runs_of(part, name)) for part in parts)
        assert train and validation and test
        assert not (train & validation or train & test or validation & test)
    assert [len(runs_of(part, "a")) for part in parts] == [5, 2, 3]


@pytest.mark.parametrize("seed", range(5))
def test_fractions_of_blocks_keep_blocks_whole(seed):
    frames = make([100, 101, 102, 200, 201, 300, 301, 400])
    parts = split_by_run(frames, 0.5, 0.25, 0.25, by="block", seed=seed)
    blocks = [{run // 100 for run in runs_of(part)} for part in parts]
    assert sum(map(len, blocks)) == len(set.union(*blocks)) == 4
    with pytest.raises(ValueError, match=r"2 block\(s\) of runs"):
        split_by_run(make([100, 101, 200, 201]), 0.5, 0.25, 0.25, by="block")


def test_few_blocks_fall_back_to_fractions():
    parts = split_by_run(make(range(10)))
    assert [len(runs_of(part)) for part in parts] == [7, 1, 2]
    assert [len(runs_of(part)) for part in split_by_run(make(range(3)))] == [1, 1, 1]


def test_lists_of_runs_and_blocks():
    frames = make(BLOCKS)
    parts = split_by_run(frames, validation=[100, 300], test=[400])
    assert [runs_of(part) for part in parts] == [[101, 200, 201, 301, 401], [100, 300], [400]]
    parts = split_by_run(frames, [1], [2], [3], by="block")
    assert [runs_of(part) for part in parts] == [[100, 101], [200, 201], [300, 301]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"validation": [100], "test": [100]}, "run 100 is in two sets"),
        ({"validation": [100], "test": [999]}, "no run 999 in these frames; there are 100, 101"),
        ({"test": [400]}, "train, validation are open"),
        ({"train": 0.9, "validation": 0.1, "test": 0.1}, "add up to 1"),
        ({"train": 1.0, "validation": 0.0, "test": 0.0}, "fractions > 0"),
        ({"train": list(BLOCKS), "validation": [], "test": []}, "validation set is empty"),
        ({"by": "frame"}, "by: expected"),
    ],
)
def test_wrong_values(arguments, message):
    with pytest.raises(ValueError, match=message):
        split_by_run(make(BLOCKS), **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train": 0.5, "validation": [100], "test": [400]}, "not a mixture"),
        ({"train": 0.5}, "not a mixture"),
        ({"validation": [100], "test": 400}, "did you mean"),
        ({"validation": "100", "test": [400]}, "list of run numbers"),
        ({"validation": [100.5], "test": [400]}, "whole run numbers"),
    ],
)
def test_wrong_types(arguments, message):
    with pytest.raises(TypeError, match=message):
        split_by_run(make(BLOCKS), **arguments)


def test_too_few_runs():
    with pytest.raises(ValueError, match="molecule 'a' has 2 molecular-dynamics"):
        split_by_run(make((100, 200)))
    with pytest.raises(ValueError, match="at least one frame"):
        split_by_run([])
