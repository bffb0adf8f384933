"""A pytest plugin: certificates as tests, and their facts as snapshots reviewed in diffs.

Enable it in a `conftest.py`:

    pytest_plugins = ["audits.pytest_plugin"]

    def test_my_round(certified):
        certified(my_round, *specs, modes=("forward", "mixed"), snapshot="my_round.json")

The snapshot holds the facts that a reviewer should notice: rounds, messages, bytes, obligations and
bounds per mode. The plugin writes it if it is missing or with `--update-certificates`; otherwise a
difference fails the test. `secfad snapshot` checks the same files outside tests, for example before
a commit.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from audits.certifying import CertificationError, check_modes, issue
from audits.snapshots import difference, facts, write
from privacy.certificates.certificates import Certificate


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds `--update-certificates`."""
    group = parser.getgroup("secfad")
    group.addoption(
        "--update-certificates",
        action="store_true",
        help="write the facts of certificates to their snapshots instead of comparing",
    )


@pytest.fixture
def certified(request: pytest.FixtureRequest) -> Callable[..., Certificate]:
    """Certifies a subject and compares its facts with a snapshot next to the test file."""

    def check(
        subject: Any,
        *specs: Any,
        modes: Sequence[str] = ("primal",),
        argnums: int | Sequence[int] | None = None,
        snapshot: str | None = None,
    ) -> Certificate:
        results = check_modes(subject, *specs, modes=modes, argnums=argnums)
        reports = {mode: report for mode, (report, _) in results.items()}
        if any(report.kind == "reject" for report in reports.values()):
            raise CertificationError(list(reports.values()))
        if snapshot is not None:
            path = Path(request.path).parent / "certificates" / snapshot
            compare(
                path, facts(reports), update=bool(request.config.getoption("update_certificates"))
            )
        return issue(subject, results)

    return check


def compare(path: Path, found: Mapping[str, Any], *, update: bool) -> None:
    """Compares facts with a snapshot, or writes it.

    Raises:
      AssertionError: They differ; the message shows how.
    """
    if update or not path.exists():
        write(path, found)
        return
    changed = difference(path, found)
    if changed is not None:
        raise AssertionError(
            f"Expected the facts in {path}, got others:\n{changed}\n"
            "If the change is intended, run pytest --update-certificates and review the difference."
        )
