"""`python -m experiments NAME|all|report [--tiny] [--out DIR] [--shakespeare FILE]`."""

import argparse
import sys
from pathlib import Path

from experiments.outcomes import Options, run_and_save
from experiments.registry import EXPERIMENTS
from experiments.report import write_report


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0 if every criterion of what ran held, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m experiments")
    parser.add_argument("name", choices=[*EXPERIMENTS, "all", "report"])
    parser.add_argument("--tiny", action="store_true", help="seconds; figures mean nothing")
    parser.add_argument("--out", type=Path, help="folder for NAME.json and NAME.png")
    parser.add_argument("--shakespeare", type=Path, help="text of the plays, for fad-2 and fad-3")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="where report writes")
    given = parser.parse_args(arguments)
    if given.name == "report":
        if given.out is None:
            parser.error("report needs --out, the folder with the results")
        write_report(given.out, given.docs)
        return 0
    options = Options(tiny=given.tiny, shakespeare=given.shakespeare)
    names = list(EXPERIMENTS) if given.name == "all" else [given.name]
    if given.name == "all" and not given.tiny and given.shakespeare is None:
        print("fad-2: left out, it needs --shakespeare FILE")
        names.remove("fad-2")
    passed = [_run(name, options, given.out) for name in names]
    return 0 if all(passed) else 1


def _run(name: str, options: Options, out: Path | None) -> bool:
    outcome, seconds = run_and_save(EXPERIMENTS[name], options, out)
    print(f"{name}: {outcome.shows} ({seconds:.0f} s)")
    for criterion in outcome.criteria:
        print(
            f"  {'holds' if criterion.passed else 'FAILS'}: {criterion.claim}: {criterion.figure}"
        )
    return outcome.passed


if __name__ == "__main__":
    sys.exit(main())
