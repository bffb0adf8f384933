"""Generates the documentation pages of the rules from the table.

Run `python -m audits.rules.pages DIRECTORY` to write the pages; a test compares them with the
table.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

from audits.rules.catalogue import RULES
from audits.rules.rules import Rule, Severity

GROUPS = {
    "0": "Can the program be read?",
    "1": "Does it communicate only by broadcast and sum?",
    "2": "Does its control flow communicate only by broadcast and sum?",
    "3": "Do its derivatives communicate only by broadcast and sum?",
    "4": "Is every contribution bounded, and does the noise fit?",
    "5": "Is the randomness sound?",
    "6": "What do several sums reveal together?",
    "7": "What do clients keep or see?",
}
EFFECTS = {
    Severity.REJECT: "The program is not certified.",
    Severity.CAVEAT: "The program is certified under an obligation that a run must acknowledge.",
    Severity.NOTE: "The certificate states it; no action is required.",
}


def pages() -> Mapping[str, str]:
    """File name to text, with an index."""
    made = {f"{rule.id}.md": page(rule) for rule in RULES.values()}
    return made | {"README.md": index()}


def page(rule: Rule) -> str:
    """The page of one rule."""
    return (
        f"# {rule.id}: {rule.name}\n\n"
        f"> {rule.message}\n\n"
        f"**Effect.** {EFFECTS[rule.severity]}\n\n"
        f"## Why\n\n{rule.why}\n\n"
        f"## Example\n\n```\n{rule.example}\n```\n\n"
        f"## Instead\n\n{rule.remedy}.\n"
    )


def index() -> str:
    """All rules by group."""
    lines = [
        "# Rules of the static checker",
        "",
        "Generated from the rule table. `secfad certify --explain ID` prints the same.",
    ]
    for digit, question in GROUPS.items():
        lines += [
            "",
            f"## {digit}xx: {question}",
            "",
            "| id | name | effect |",
            "| --- | --- | --- |",
        ]
        lines += [
            f"| [{r.id}]({r.id}.md) | {r.name} | {r.severity.name.lower()} |"
            for r in RULES.values()
            if r.id[3] == digit
        ]
    return "\n".join(lines) + "\n"


def write(directory: Path) -> None:
    """Writes all pages."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (directory / name).write_text(text)


if __name__ == "__main__":
    write(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/rules"))
