import runpy
from pathlib import Path

import pytest

FLOW = Path(__file__).parents[1] / "flow" / "conftest.py"


@pytest.fixture
def tiny_config(tmp_path):
    """Writes the tiny configuration of the flow tests with one text replaced."""
    text = runpy.run_path(str(FLOW))["TINY"]

    def write(old, new):
        assert old in text
        path = tmp_path / "config.toml"
        path.write_text(text.replace(old, new, 1))
        return path

    return write
