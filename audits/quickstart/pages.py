"""Pages: a run as one self-contained HTML file, without scripts or external resources.

Source: results.json and the plots next to it.
"""

import base64
import html
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from audits.quickstart.errors import ExperimentError
from audits.quickstart.results import SCHEMA
from privacy.files import write_durably

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; } td, th { padding: .2rem .8rem; text-align: right; }
td:first-child, th:first-child { text-align: left; } tr { border-bottom: 1px solid #ddd; }
img { max-width: 100%; } pre { background: #f6f6f6; padding: 1rem; overflow-x: auto; }
"""


def read_results(folder: Path) -> dict[str, Any]:
    """The results of a finished run.

    Raises:
      ExperimentError: The results are missing or invalid.
    """
    path = folder / "results.json"
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        if results["schema"] != SCHEMA:
            raise ValueError(f"schema {results['schema']!r}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExperimentError(
            f"Expected the results of a finished run in {path}, got: {error}. "
            "Finish it with secfad run CONFIG --out DIR --resume."
        ) from None
    return results


def write_page(folder: Path) -> Path:
    """Writes report.html of a finished run and returns its path."""
    results = read_results(folder)
    path = folder / "report.html"
    write_durably(path, page(results, folder).encode())
    return path


def page(results: Mapping[str, Any], folder: Path) -> str:
    """The page as text; plots that are missing are left out."""
    name = html.escape(results["name"])
    images = "".join(
        _image(folder / f"{plot}.png") for plot in ("loss", "hyperparameters", "budget")
    )
    stopped = results["stopped_early"]
    warning = f"<p><strong>Stopped early.</strong> {html.escape(stopped)}</p>" if stopped else ""
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in results["notes"])
    configuration = html.escape(json.dumps(results["configuration"], indent=2))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{name}</title>'
        f"<style>{_STYLE}</style><h1>{name}</h1>{warning}{_table(results)}{images}"
        f"<h2>What these figures mean</h2><ul>{notes}</ul>"
        f"<h2>Evidence</h2><p>Ledger head <code>{results['ledger']['head']}</code></p>"
        f"<h2>Configuration</h2><pre>{configuration}</pre></html>\n"
    )


def _table(results: Mapping[str, Any]) -> str:
    rows: list[tuple[str, ...]] = [("", "initial", "private", "without privacy")]
    twin = results["baseline"] or {}
    for key in ("accuracy", "loss", "learning_rate", "momentum"):
        first = (results["initial"] | results["configuration"]["server"])[key]
        cells = (first, results["private"][key], twin.get(key))
        rows.append((key.replace("_", " "), *("" if v is None else f"{v:.3f}" for v in cells)))
    for view in ("released", "server"):
        for purpose, epsilon in results["epsilon"][view].items():
            rows.append((f"epsilon, {view} view: {purpose}", "0", f"{epsilon:.2f}", "unbounded"))
    if central := results.get("epsilon_with_central_noise"):
        for purpose, epsilon in central.items():
            rows.append(
                (f"the same with noise by the server: {purpose}", "0", f"{epsilon:.2f}", "")
            )
    text = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table>{text}</table>"


def _image(path: Path) -> str:
    if not path.exists():
        return ""
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<p><img alt="{path.stem}" src="data:image/png;base64,{data}"></p>'
