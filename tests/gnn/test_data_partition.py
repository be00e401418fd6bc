"""Splits that a file allows: by run, by frame, by key; what leaks least, and what is said."""

import pytest

from gnn.data import Frame, System
from gnn.data.partition import hold_out, partition

HELIUM = System([2], [[0.0, 0.0, 0.0]])


def atom(z, x=0.0):
    return System([z], [[x, 0.0, 0.0]])


def frames_of(count, system=HELIUM, **more):
    return [Frame(system, energy=float(i), **more) for i in range(count)]


def assert_parted(parts, count):
    together = [*parts.train, *parts.validation, *parts.test]
    assert sorted(together) == list(range(count))
    assert parts.train and parts.validation and parts.test


def neighbours(part, other):
    """How many pairs of neighbouring frames are in both sets."""
    return sum(i + 1 in other for i in part) + sum(i - 1 in other for i in part)


@pytest.mark.parametrize("seed", range(4))
def test_without_runs_frames_are_held_out_in_stretches(seed):
    parts = partition(frames_of(50), seed=seed)
    assert_parted(parts, 50)
    assert [len(part) for part in parts[:3]] == [35, 5, 10]
    # a random choice of frames would have some twenty neighbours in training
    held = {*parts.validation, *parts.test}
    assert neighbours(held, set(parts.train)) <= 4
    assert parts.remark.startswith("split by frame: the frames name no runs")
    assert "neighbours in training" in parts.remark
    assert partition(frames_of(50), seed=seed) == parts
    assert partition(frames_of(50), seed=seed + 1) != parts


def test_all_frames_of_one_run_say_why():
    parts = partition(frames_of(20, run=7))
    assert_parted(parts, 20)
    assert "split by frame: the frames are of 1 run, and a split by run needs three" in parts.remark


def test_runs_stay_the_first_choice():
    frames = [Frame(HELIUM, run=run) for run in range(10) for _ in range(3)]
    parts = partition(frames)
    assert_parted(parts, 30)
    runs = [{frames[i].run for i in part} for part in parts[:3]]
    assert not (runs[0] & runs[1] or runs[0] & runs[2] or runs[1] & runs[2])
    assert parts.remark.startswith("split by run: the frames are of 10 ")
    by_frame = partition(frames, by="frame")
    assert "split by frame: as the configuration says" in by_frame.remark


def test_molecules_with_runs_and_without():
    """Each in the way that it allows."""
    many = [Frame(HELIUM, run=run, name="a") for run in range(6) for _ in range(2)]
    one = [Frame(atom(10), run=1, name="b") for _ in range(10)]
    parts = partition(many + one)
    assert_parted(parts, 22)
    assert "split by run and by frame: b are of 1 run" in parts.remark
    for run in range(6):
        places = [k for k in range(3) for i in parts[k] if i < 12 and many[i].run == run]
        assert len(set(places)) == 1
    assert all(any(i >= 12 for i in part) for part in parts[:3])


def test_every_molecule_of_a_file_without_names_is_in_each_set():
    frames = [*frames_of(10, atom(2)), *frames_of(10, atom(10)), *frames_of(10, atom(18))]
    parts = partition(frames)
    for start in (0, 10, 20):
        assert all(any(start <= i < start + 10 for i in part) for part in parts[:3])


@pytest.mark.parametrize("seed", range(5))
def test_an_element_that_one_frame_has_is_trained_on(seed):
    frames = [*frames_of(2, atom(2)), *frames_of(1, atom(10)), *frames_of(12, atom(18))]
    parts = partition(frames, seed=seed)
    assert_parted(parts, 15)
    assert 2 in parts.train
    assert any(i < 2 for i in parts.train)


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_frames(count):
    word = "1 frame cannot" if count == 1 else "2 frames cannot"
    with pytest.raises(ValueError, match=f"{word} make a training, a validation and a test set"):
        partition(frames_of(count))
    with pytest.raises(ValueError, match="at least one frame"):
        partition([])


def test_three_frames_are_enough():
    assert_parted(partition(frames_of(3)), 3)


def test_fractions_count_frames():
    parts = partition(frames_of(100), 0.5, 0.2, 0.3)
    assert [len(part) for part in parts[:3]] == [50, 20, 30]
    with pytest.raises(ValueError, match="add up to 1"):
        partition(frames_of(100), 0.5, 0.2, 0.1)
    with pytest.raises(TypeError, match="three fractions or none"):
        partition(frames_of(100), 0.5)
    with pytest.raises(TypeError, match="takes fractions, not lists"):
        partition(frames_of(100), [1], [2], [3], by="frame")


def kinds(*groups):
    return [Frame(HELIUM, group=group) for group in groups]


def test_key_whose_values_name_the_sets():
    parts = partition(kinds("train", "Valid", "test", "train", "val"), by="group")
    assert parts[:3] == ([0, 3], [1, 4], [2])
    assert "its values name the sets" in parts.remark
    parts = partition(kinds("training", "testing"), by="group")
    assert parts[:3] == ([0], [], [1])


def test_lists_of_values_of_a_key():
    frames = kinds("md300", "md600", "md1000", "md300")
    parts = partition(frames, None, ["md600"], ["md1000"])
    assert parts[:3] == ([0, 3], [1], [2])
    assert "split by key: as the configuration says (train md300; validation md600" in parts.remark
    numbers = partition(kinds("300", "600", "1000"), [300], [600], [1000], by="group")
    assert numbers[:3] == ([0], [1], [2])


def test_values_of_a_key_are_held_out_whole():
    frames = kinds(*(f"g{i % 10}" for i in range(40)))
    parts = partition(frames, by="group")
    assert_parted(parts, 40)
    groups = [{frames[i].group for i in part} for part in parts[:3]]
    assert [len(group) for group in groups] == [7, 1, 2] and len(set.union(*groups)) == 10


@pytest.mark.parametrize(
    ("frames", "shares", "message"),
    [
        (kinds("a", "", "b"), {}, "1 of 3 frames have no such key.*frame 1"),
        (kinds("a", "b"), {}, "needs at least 3 values.*found a, b"),
        (kinds("a", "b", "c"), {"validation": ["x"], "test": ["a"]}, "no frame has the key 'x'"),
        (kinds("a", "b", "c"), {"validation": ["a"], "test": ["a"]}, "'a' is in two sets"),
        (kinds("a", "b", "c"), {"test": ["a"]}, "train, validation are open"),
        (kinds("valid", "test"), {}, "training set is empty"),
    ],
)
def test_wrong_keys(frames, shares, message):
    with pytest.raises(ValueError, match=message):
        partition(frames, **shares, by="group")


def test_one_fraction_alone_is_refused_whatever_is_split():
    for frames, by in ((kinds("a", "b", "c"), "group"), (frames_of(30), "frame")):
        with pytest.raises(TypeError, match=r"expected three fractions or none, got train 0\.5"):
            partition(frames, train=0.5, by=by)


def test_a_part_of_the_training_frames_to_validate_on():
    kept, held, test, remark = hold_out(frames_of(30))
    assert (len(kept), len(held), test) == (27, 3, []) and "3 of 30 in stretches" in remark
    assert held[-1] - held[0] in (2, 27, 28, 29)  # one stretch, which may go round the end
    frames = [Frame(HELIUM, run=run) for run in range(5) for _ in range(4)]
    kept, held, _, remark = hold_out(frames)
    assert len(held) == 4 and len({frames[i].run for i in held}) == 1 and "whole runs" in remark
    with pytest.raises(ValueError, match="1 training frame can spare none"):
        hold_out(frames_of(1))
