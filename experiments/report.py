"""docs/reproductions.md and docs/findings.md, written from the results and nothing else."""

import json
import os
from pathlib import Path
from typing import Any

HEAD = """# Reproductions

Written by `python -m experiments report --out experiments/results` from the records of `python -m experiments
NAME --out experiments/results`; do not edit. `--shakespeare FILE` gives `fad-2` and `fad-3` the text of the
plays. Intervals are 95 % bootstrap intervals over paired seeds. A paper's numbers are not printed
where the paper could not be read: the comparison is then one of orderings or shapes. Of the federated
AD paper the text was at hand; of AggITD, BAFFLE and intrinsic gradient compression the abstracts,
released code or descriptions of it.
"""


FINDINGS = """# What privacy does to the papers' algorithms

Written by `python -m experiments report --out experiments/results` from the records of `python -m experiments
NAME --out experiments/results` for `dp-*`; do not edit. Intervals are 95 % bootstrap intervals over paired
seeds. Unless an experiment says otherwise, every release was certified, went through secure aggregation with
ideal masks and central Gaussian noise, and was charged to a ledger with the client as the unit: every epsilon
is the ledger's. The tasks are small: they show directions, not sizes to be expected elsewhere.

A criterion is a hypothesis that was stated before the full run. Where it did not hold the table says
**no**, and the interval may lie on the other side altogether.
"""


def write_report(results: Path, docs: Path) -> None:
    """Writes both pages into a folder; findings only if there are private results.

    Raises:
      FileNotFoundError: There are no results.
      ValueError: A result is from a tiny run.
    """
    records = [json.loads(path.read_text("utf-8")) for path in sorted(results.glob("*.json"))]
    if not records:
        raise FileNotFoundError(f"Expected results NAME.json in {results}, got none.")
    tiny = [r["name"] for r in records if r["tiny"]]
    if tiny:
        raise ValueError(f"Expected full runs, got tiny ones: {tiny}. Run them without --tiny.")
    for record in records:
        picture = results / f"{record['name']}.png"
        record["picture"] = os.path.relpath(picture, docs) if picture.exists() else None
    private = [r for r in records if r["name"].startswith("dp-")]
    published = [r for r in records if r not in private]
    for head, chosen, name in (
        (HEAD, published, "reproductions.md"),
        (FINDINGS, private, "findings.md"),
    ):
        if chosen:
            parts = [head, _summary(chosen), *(_section(record) for record in chosen)]
            (docs / name).write_text("\n".join(parts), "utf-8")


def _summary(records: list[dict[str, Any]]) -> str:
    rows = [
        (f"`{r['name']}`", r["shows"], f"{sum(c['passed'] for c in r['criteria'])} of "
         f"{len(r['criteria'])}", _time(r.get("processor_seconds")), _time(r["seconds"]))
        for r in records
    ]  # fmt: skip
    return _table([("experiment", "shows", "criteria that hold", "processor", "clock"), *rows])


def _time(seconds: float | None) -> str:
    return "not recorded" if seconds is None else f"{seconds:.0f} s"


def _section(record: dict[str, Any]) -> str:
    lines = [
        f"## `{record['name']}`: {record['shows']}",
        "",
        f"Answers to: {record['matches']}.",
        "",
    ]
    criteria = [
        ("yes" if c["passed"] else "**no**", c["claim"], c["figure"]) for c in record["criteria"]
    ]
    lines.append(_table([("holds", "criterion", "found"), *criteria]))
    if record["picture"] is not None:
        lines += [f"![{record['shows']}]({record['picture']})", ""]
    if record["table"]:
        lines.append(_table(record["table"]))
    settings = "; ".join(f"{name}: {value}" for name, value in record["settings"].items())
    lines += [f"Settings: {settings}.", ""]
    lines += [f"- {note}" for note in record["notes"]]
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    return "\n".join(
        [*lines, "", f"`python -m experiments {record['name']}`, with {versions}.", ""]
    )


def _table(rows) -> str:
    first, *rest = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    lines = [first, ["---"] * len(first), *rest]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
