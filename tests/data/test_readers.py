"""Readers, on files that the tests write, and on real ones where a path is given."""

import json
import os
import sys

import numpy as np
import pytest

from secfad.data import FormatError, Hdf5Clients, MissingExtra, digits, read_leaf, shakespeare

PLAY = (
    "First:\nAye, sir.\n\nSecond:\nNo.\nNo, no.\n\nSecond:\n\nFirst:\nThen go.\n\n"
    + "Third:\nYes.\n\n" * 3
)


@pytest.fixture
def play(tmp_path):
    path = tmp_path / "play.txt"
    path.write_text(PLAY, "utf-8")
    return path


def leaf(path, **changes):
    content = {
        "users": ["a", "b"],
        "num_samples": [2, 1],
        "user_data": {
            "a": {"x": [[1.0, 2.0], [3.0, 4.0]], "y": [0, 1]},
            "b": {"x": ["to"], "y": ["o"]},
        },
    }
    path.write_text(json.dumps(content | changes), "utf-8")
    return path


def test_role_has_all_its_speeches_and_empty_ones_add_nothing(play):
    found = shakespeare.roles(play)
    assert list(found) == ["First", "Second", "Third"]
    assert found["First"] == "Aye, sir.\nThen go."
    assert found["Second"] == "No.\nNo, no."


def test_roles_below_the_least_number_of_characters_are_left_out(play):
    assert list(shakespeare.roles(play, min_characters=15)) == ["First"]


def test_text_without_names_is_refused_with_the_count(tmp_path):
    path = tmp_path / "prose.txt"
    path.write_text("It was a night.\n\nA:\nSo?\n", "utf-8")
    with pytest.raises(FormatError, match="got 1 such blocks of 2"):
        shakespeare.roles(path)


def test_windows_are_the_previous_symbols_and_the_next_one():
    context, following = shakespeare.windows("abcab", "abc", 2)
    np.testing.assert_array_equal(context, [[0, 1], [1, 2], [2, 0]])
    np.testing.assert_array_equal(following, [2, 0, 1])
    assert shakespeare.windows("ab", "abc", 2)[0].shape == (0, 2)
    with pytest.raises(FormatError, match="'z'"):
        shakespeare.windows("az", "abc", 1)


def test_leaf_numbers_are_arrays_and_text_stays_a_list(tmp_path):
    found = read_leaf(leaf(tmp_path / "train.json"))
    np.testing.assert_array_equal(found["a"]["x"], [[1.0, 2.0], [3.0, 4.0]])
    assert found["b"] == {"x": ["to"], "y": ["o"]}


def test_leaf_folder_is_all_its_files(tmp_path):
    leaf(tmp_path / "0.json")
    leaf(tmp_path / "1.json", users=["c"], num_samples=[1], user_data={"c": {"x": [1], "y": [2]}})
    assert list(read_leaf(tmp_path)) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_samples": [2, 7]}, "7 samples of user 'b'"),
        ({"num_samples": [2]}, "for every user"),
        ({"user_data": {}}, "`x` and `y` of user 'a'"),
    ],
)
def test_leaf_file_that_contradicts_itself_is_refused(tmp_path, changes, words):
    with pytest.raises(FormatError, match=words):
        read_leaf(leaf(tmp_path / "train.json", **changes))


@pytest.mark.parametrize("text", ["{}", "[1]", "not json"])
def test_json_that_is_not_leaf_is_refused(tmp_path, text):
    path = tmp_path / "other.json"
    path.write_text(text, "utf-8")
    with pytest.raises(FormatError, match=r"other\.json"):
        read_leaf(path)


def test_user_in_two_files_is_refused(tmp_path):
    leaf(tmp_path / "0.json")
    leaf(tmp_path / "1.json")
    with pytest.raises(FormatError, match="'a' again"):
        read_leaf(tmp_path)


def test_hdf5_clients_are_read_by_name(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "set.h5", "w") as file:
        for name, rows in (("f0", 3), ("f1", 2)):
            file[f"examples/{name}/pixels"] = np.full((rows, 2), 0.5, np.float32)
            file[f"examples/{name}/label"] = np.arange(rows)
    with Hdf5Clients(tmp_path / "set.h5") as found:
        assert list(found) == ["f0", "f1"]
        assert found["f0"]["pixels"].shape == (3, 2)
        np.testing.assert_array_equal(found["f1"]["label"], [0, 1])


def test_hdf5_of_another_layout_and_uneven_features_are_refused(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["weights"] = np.zeros(2)
    with pytest.raises(FormatError, match="`examples`"):
        Hdf5Clients(tmp_path / "other.h5")
    with h5py.File(tmp_path / "uneven.h5", "w") as file:
        file["examples/a/x"], file["examples/a/y"] = np.zeros(2), np.zeros(3)
    with (
        Hdf5Clients(tmp_path / "uneven.h5") as found,
        pytest.raises(FormatError, match=r"\[2, 3\]"),
    ):
        found["a"]
    (tmp_path / "text.h5").write_text("no")
    with pytest.raises(FormatError, match="HDF5 file"):
        Hdf5Clients(tmp_path / "text.h5")


def test_digits_are_the_known_set():
    pytest.importorskip("sklearn")
    features, labels = digits.read_digits()
    assert features.shape == (1797, 64)
    assert (features.min(), features.max()) == (0.0, 1.0)
    counts = np.bincount(labels)
    assert (counts.min(), counts.max()) == (174, 183)


@pytest.mark.parametrize(
    ("module", "read"),
    [("sklearn", digits.read_digits), ("h5py", lambda: Hdf5Clients("x.h5"))],
)
def test_missing_package_is_named_with_the_command_that_installs_it(monkeypatch, module, read):
    for name in [n for n in sys.modules if n.split(".")[0] == module]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, f"{module}.datasets", None)
    with pytest.raises(MissingExtra, match="pip install"):
        read()


def test_real_text_has_the_documented_roles():
    path = os.environ.get("SECFAD_SHAKESPEARE", "")
    if not os.path.isfile(path):
        pytest.skip("set SECFAD_SHAKESPEARE to the path of tinyshakespeare's input.txt")
    found = shakespeare.roles(path)
    assert len(found) == 299
    assert sum(len(t) >= 2000 for t in found.values()) == 99
    assert max(len(t) for t in found.values()) == 37615


def test_real_leaf_file_can_be_read():
    path = os.environ.get("SECFAD_LEAF", "")
    if not os.path.isfile(path):
        pytest.skip("set SECFAD_LEAF to the path of the test half of FedProx's Synthetic(1,1)")
    found = read_leaf(path)
    assert len(found) == 30
    assert sum(len(d["y"]) for d in found.values()) == 1084
