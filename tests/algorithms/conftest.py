"""The table of algorithms and its oracles are kept beside the tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
