"""`secfad certify FILE.py:NAME`: load, check every mode, report, issue.

The file is a Python module with a computation called NAME and the shapes of its arguments, given by
one of

    SPECS = {"NAME": (spec, ...)}        a tuple of jax.ShapeDtypeStruct, arrays or trees of them
    def NAME_specs(): return (spec, ...)

NAME may also be a `PrivateProgram` or a `Program`, which need no specs. Loading a file runs it.
"""

import importlib.util
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from audits.certifying import KNOWN_MODES, MODES, check_modes, issue
from audits.proofs.bundles import Bundle
from audits.reports.github import render_github
from audits.reports.html import render_html
from audits.reports.json import render_json
from audits.reports.sarif import render_sarif
from audits.reports.text import render_texts
from audits.rules.findings import Report
from privacy.certificates.keys import KeyMalformed, read_signing_key
from privacy.certificates.statements import sign
from privacy.mechanisms.privatization import PrivateProgram
from secagg.crypto.primitives import SigningKey
from secfad import Computation, Program, trace
from secfad.errors import ArgumentError, SecfadError
from secfad.inner import as_struct

CERTIFIED, REJECTED, UNUSABLE = 0, 1, 2
FORMATS = ("text", "json", "sarif", "html", "github")


class UnusableInput(Exception):
    """The file, the name or its specs are invalid; the message states the remedy."""


def certify_file(
    path: str | Path,
    name: str,
    *,
    modes: Sequence[str] | str = "all",
    format: str = "text",
    out: str | Path | None = None,
    certificate: str | Path | None = None,
    bundle: str | Path | None = None,
    sign_with: str | Path | None = None,
    error_on_caveat: bool = False,
    write: Callable[[str], None] = print,
) -> int:
    """Certifies a computation of a file.

    Args:
      path: A Python file.
      name: A computation, program or private program in it.
      modes: `"all"` (`"primal"`, `"forward"`, `"reverse"`, `"mixed"`), or some of these,
        `"factored"` and `"blockwise"`.
      format: `"text"`, `"json"`, `"sarif"`, `"html"` or `"github"`.
      out: File for the report, instead of `write`.
      certificate: File for the certificate, if one is issued.
      bundle: File for the certificate and its programs, if one is issued.
      sign_with: Private key file; the certificate is then written as a signed envelope.
      error_on_caveat: Treat obligations as rejections.
      write: Receives the report, or the reason why there is no report.

    Returns:
      0 certified, 1 rejected with findings, 2 invalid input.
    """
    try:
        subject, specs = load(path, name)
        chosen = modes_of(modes)
        if format not in FORMATS:
            raise UnusableInput(f"Expected a format among {', '.join(FORMATS)}, got {format!r}.")
        key = _signing_key(sign_with, certificate or bundle)
        if isinstance(subject, Computation):
            # Shapes that do not match are findings, with a rule and a line.
            require_traceable(subject, specs, Path(path), passed=(TypeError, ValueError))
        results = check_modes(subject, *specs, modes=chosen)
    except (UnusableInput, KeyMalformed, OSError) as error:
        write(f"{path}: {error}")
        return UNUSABLE
    reports = {mode: report for mode, (report, _) in results.items()}
    text = render(reports, format, title=f"{Path(path).name}:{name}")
    if out is None:
        write(text)
    else:
        Path(out).write_text(text + "\n")
    kinds = {report.kind for report in reports.values()}
    if "reject" in kinds or (error_on_caveat and "caveat" in kinds):
        return REJECTED
    if certificate is not None or bundle is not None:
        issued = issue(subject, results)
        made = issued if key is None else sign(issued, key)
        if certificate is not None:
            Path(certificate).write_text(made.to_json() + "\n")
        if bundle is not None:
            programs = {mode: p for mode, (_, p) in results.items() if p is not None}
            Path(bundle).write_text(Bundle.of(made, programs).to_json())
    return CERTIFIED


def _signing_key(path: str | Path | None, certificate: str | Path | None) -> SigningKey | None:
    """The key to sign with, read before anything is checked."""
    if path is None:
        return None
    if certificate is None:
        raise UnusableInput(
            "Expected a file for the signed certificate. Add --certificate FILE or --bundle FILE."
        )
    return read_signing_key(path)


def modes_of(modes: Sequence[str] | str) -> tuple[str, ...]:
    """The requested modes.

    Raises:
      UnusableInput: An unknown mode.
    """
    if isinstance(modes, str):
        modes = MODES if modes == "all" else ("primal", modes)
    if set(modes) - set(KNOWN_MODES):
        known = ", ".join(KNOWN_MODES)
        raise UnusableInput(f"Expected modes among all, {known}, got {list(modes)}.")
    return tuple(dict.fromkeys(modes))


def render(reports: dict[str, Report], format: str, *, title: str) -> str:
    """The reports in one of the formats."""
    match format:
        case "json":
            return render_json(reports)
        case "sarif":
            return render_sarif(reports)
        case "html":
            return render_html(reports, title)
        case "github":
            return render_github(reports)
        case _:
            return render_texts(reports)


def load(path: str | Path, name: str) -> tuple[Any, tuple]:
    """The subject and its specs.

    Raises:
      UnusableInput: The file cannot be loaded, or it does not define the name or its specs.
    """
    module = _module(Path(path))
    if not hasattr(module, name):
        found = [f"`{k}`" for k, v in vars(module).items() if isinstance(v, Computation)]
        listed = ", ".join(found) or "none"
        raise UnusableInput(f"Expected a computation `{name}`, got a file with {listed}.")
    subject = getattr(module, name)
    if isinstance(subject, Program | PrivateProgram):
        return subject, ()
    if not isinstance(subject, Computation):
        raise UnusableInput(
            f"Expected `{name}` to be a computation, got a {type(subject).__name__}. "
            "Decorate the function with @secfad.computation(argument=secfad.SERVER, ...)."
        )
    return subject, _specs(module, name, subject)


def _module(path: Path) -> Any:
    if not path.is_file():
        raise UnusableInput("Expected a Python file, got none at this path.")
    label = f"_secfad_subject_{path.stem}"
    spec = importlib.util.spec_from_file_location(label, path)
    if spec is None or spec.loader is None:
        raise UnusableInput("Expected a Python file with the suffix .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[label] = module
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise UnusableInput(f"Loading failed with {type(error).__name__}: {error}") from error
    finally:
        sys.path.pop(0)
    return module


def _specs(module: Any, name: str, subject: Computation) -> tuple:
    declared = getattr(module, "SPECS", {})
    maker = getattr(module, f"{name}_specs", None)
    specs = declared.get(name) if isinstance(declared, dict) else None
    if specs is None and callable(maker):
        try:
            specs = maker()
        except Exception as error:
            failed = f"{type(error).__name__}: {error}"
            raise UnusableInput(f"`{name}_specs()` failed with {failed}") from error
    if not isinstance(specs, tuple | list) or len(specs) != len(subject.placements):
        arguments = ", ".join(subject.placements)
        raise UnusableInput(
            f"Expected the shapes of ({arguments}), got {specs or 'none'}. "
            f'Write SPECS = {{"{name}": (jax.ShapeDtypeStruct(shape, dtype), ...)}} in the file.'
        )
    try:
        return tuple(
            jax.tree.map(lambda leaf, n=n: as_struct(leaf, n), spec)
            for n, spec in zip(subject.placements, specs)
        )
    except ArgumentError as error:
        raise UnusableInput(f"The shapes of `{name}` are invalid. {error}") from error


def require_traceable(
    subject: Computation,
    specs: Sequence[Any],
    path: Path,
    *,
    passed: tuple[type[Exception], ...] = (),
) -> None:
    """Reports where the code of a file fails, before it is differentiated.

    Errors of secfad, and `passed` ones, are left to the next trace.

    Raises:
      UnusableInput: Tracing the computation failed; names the line.
    """
    try:
        trace(subject, *specs)
    except (SecfadError, *passed):
        return
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [f.lineno for f in frames if Path(f.filename) == path.resolve()]
        where = f" at line {lines[-1]}" if lines else ""
        said = str(error).splitlines()[0] if str(error) else "no message"
        raise UnusableInput(
            f"`{subject.name}` failed{where} with {type(error).__name__}: {said.rstrip('.')}. "
            "Check the function and the shapes of its arguments."
        ) from error
