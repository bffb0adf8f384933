"""A pytest plugin: certificates as tests, and their facts as snapshots reviewed in diffs.

pytest loads it by itself where secfad is installed.

    def test_my_round(certified):
        certified(my_round, *specs, modes=("forward", "mixed"), snapshot="my_round.json")

The snapshot holds the facts that a reviewer should notice: rounds, messages, bytes, obligations and
bounds per mode. A missing snapshot or a difference fails the test; `pytest --snapshot-update` writes
the snapshots. `secfad snapshot` checks the same files outside tests, for example before a commit.

Obligations are accepted unless the test says which (`accept=["FAD306"]`, or `accept=()` for none);
`pytest --refuse-obligations` accepts none where a test does not say.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from audits.rules.findings import Report
    from privacy.certificates.certificates import Certificate


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config, parser: pytest.Parser) -> None:
    """Adds the options when all plugins have added theirs: syrupy has `--snapshot-update` too."""
    group = parser.getgroup("secfad")
    if early_config.getoption("--snapshot-update", None) is None:
        group.addoption(
            "--snapshot-update",
            action="store_true",
            help="write the facts of certificates to their snapshots instead of comparing",
        )
    group.addoption(
        "--refuse-obligations",
        action="store_true",
        help="fail a test whose certificate has obligations that it does not accept by name",
    )


@pytest.fixture
def certified(request: pytest.FixtureRequest) -> "Callable[..., Certificate]":
    """Certifies a subject and compares its facts with a snapshot next to the test file."""

    def check(
        subject: Any,
        *specs: Any,
        modes: Sequence[str] = ("primal",),
        argnums: int | Sequence[int] | None = None,
        snapshot: str | None = None,
        accept: Collection[str] | None = None,
    ) -> "Certificate":
        # Imported here: pytest loads this plugin for every project, and JAX takes a second.
        from audits.certifying import CertificationError, check_modes, issue
        from audits.snapshots import facts

        results = check_modes(subject, *specs, modes=modes, argnums=argnums)
        reports = {mode: report for mode, (report, _) in results.items()}
        if any(report.kind == "reject" for report in reports.values()):
            raise CertificationError(list(reports.values()))
        if accept is None and request.config.getoption("--refuse-obligations", False):
            accept = ()
        if accept is not None:
            require_accepted(reports, accept)
        if snapshot is not None:
            path = Path(request.path).parent / "certificates" / snapshot
            update = bool(request.config.getoption("--snapshot-update", False))
            compare(path, facts(reports), update=update)
        return issue(subject, results)

    return check


def require_accepted(reports: "Mapping[str, Report]", accept: Collection[str]) -> None:
    """Raises AssertionError for an obligation that is not accepted, and for one that is not there."""
    if isinstance(accept, str):
        accept = (accept,)
    found = {f.rule: f.message for report in reports.values() for f in report.findings}
    refused = [f"{rule}: {text}" for rule, text in found.items() if rule not in accept]
    if refused:
        listed = "\n".join(refused)
        rules = sorted({*accept, *found})
        raise AssertionError(
            f"Expected no obligations but {sorted(accept)}, got others:\n{listed}\n"
            f"Change the program, or accept them: certified(..., accept={rules})."
        )
    idle = sorted(set(accept) - set(found))
    if idle:
        raise AssertionError(
            f"Expected the obligations {sorted(accept)}, got none of {idle}. Remove them from "
            "`accept`."
        )


def compare(path: Path, found: Mapping[str, Any], *, update: bool) -> None:
    """Compares facts with a snapshot, or writes it.

    Raises:
      AssertionError: There is no snapshot, or it differs; the message shows how.
    """
    from audits.snapshots import difference, write

    if update:
        write(path, found)
        return
    if not path.exists():
        raise AssertionError(
            f"Expected a snapshot at {path}, got none. Run pytest --snapshot-update, review the file "
            "and commit it."
        )
    changed = difference(path, found)
    if changed is not None:
        raise AssertionError(
            f"Expected the facts in {path}, got others:\n{changed}\n"
            "If the change is intended, run pytest --snapshot-update and review the difference."
        )
