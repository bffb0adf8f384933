"""The metrics of a run tell the same story as its checkpoint."""

import pytest

from privacy.errors import ResumeRefused
from privacy.training.metrics import MetricsFile


@pytest.fixture
def file(tmp_path):
    made = MetricsFile(tmp_path / "metrics.jsonl")
    for number in range(4):
        made.append({"round": number, "loss": 1.0 / (number + 1)})
    return made


def test_lines_beyond_the_checkpoint_are_dropped(file):
    file.keep(2)
    assert [line["round"] for line in file.read()] == [0, 1, 2]
    file.append({"round": 3, "loss": 0.0})
    assert file.read()[-1] == {"round": 3, "loss": 0.0}


def test_line_that_a_crash_cut_off_is_dropped(file):
    file.path.write_bytes(file.path.read_bytes()[:-5])
    assert [line["round"] for line in file.read()] == [0, 1, 2]
    file.keep(2)
    assert file.path.read_text().endswith("}\n")


def test_missing_lines_are_not_papered_over(file):
    with pytest.raises(ResumeRefused, match="rounds 0 to 5"):
        file.keep(5)
    file.clear()
    with pytest.raises(ResumeRefused, match="got 0 of them"):
        file.keep(0)
