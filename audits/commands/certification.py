"""`secfad certify`: answers requests, writes the reports, and issues certificates.

requests --answer--> reports --acceptances, baseline--> findings that are open --> exit code
                        |--> certificates with their acceptances, of programs without rejection
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

from audits.commands.baselines import known_findings, read_baseline, write_baseline
from audits.commands.projects import Project
from audits.commands.requests import Answer, Request
from audits.commands.targets import UnusableInput
from audits.proofs.bundles import Bundle
from audits.proofs.statements import answers_text
from audits.reports.github import render_github
from audits.reports.html import render_html
from audits.reports.json import reports_to_dict, to_json
from audits.reports.reviews import Review
from audits.reports.sarif import render_sarif
from audits.reports.text import render_texts
from audits.rules.findings import Report
from privacy.certificates.acceptances import Acceptance
from privacy.certificates.certificates import Certificate
from privacy.certificates.keys import KeyMalformed, read_signing_key
from privacy.certificates.statements import sign
from privacy.errors import MechanismError
from secagg.crypto.primitives import SigningKey
from secfad.errors import TranslationError

CERTIFIED, REJECTED, UNUSABLE = 0, 1, 2
_UNUSABLE = (UnusableInput, KeyMalformed, MechanismError, TranslationError)
FORMATS = ("text", "json", "sarif", "html", "github")


@dataclasses.dataclass(frozen=True)
class Outputs:
    """What is written, and what counts as a rejection.

    Attributes:
      format: `"text"`, `"json"`, `"sarif"`, `"html"` or `"github"`.
      out: File for the report, instead of `write`.
      certificate: File for the certificate; with several programs a folder.
      bundle: File for the certificate and its programs; with several programs a folder.
      sign_with: Private key file; certificates are then signed.
      refuse_obligations: Treat obligations that nobody accepted as rejections.
      baseline: File of known findings, which do not count.
      update_baseline: Write that file.
      write: Receives the report, or the reason why there is none.
    """

    format: str = "text"
    out: Path | None = None
    certificate: Path | None = None
    bundle: Path | None = None
    sign_with: Path | None = None
    refuse_obligations: bool = False
    baseline: Path | None = None
    update_baseline: bool = False
    write: Callable[[str], None] = print

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise UnusableInput(
                f"Expected a format among {', '.join(FORMATS)}, got {self.format!r}."
            )
        if self.sign_with is not None and self.certificate is None and self.bundle is None:
            raise UnusableInput(
                "Expected a file for the signed certificate. Add --certificate FILE or "
                "--bundle FILE."
            )
        if self.update_baseline and self.baseline is None:
            raise UnusableInput("Expected a file for the baseline. Add --baseline FILE.")

    @property
    def issues_nothing(self) -> bool:
        """Whether no certificate is wanted."""
        return self.certificate is None and self.bundle is None


def certify_one(request: Request, outputs: Outputs, project: Project | None = None) -> int:
    """Certifies one program.

    Returns:
      0 certified, 1 rejected with findings, 2 invalid input.
    """
    return _certify({str(request.target): request}, outputs, project or Project.find(), many=False)


def certify_all(outputs: Outputs, project: Project | None = None) -> int:
    """Certifies every program of a project.

    Returns:
      0 if all are certified, or all findings are those of the baseline; 1 rejected; 2 invalid input.
    """
    project = project or Project.find()
    if not project.programs:
        outputs.write(
            f"Expected programs in [tool.secfad.programs] of {project.root / 'pyproject.toml'}, got "
            'none. Write for example [tool.secfad.programs.loss] target = "model.py:loss".'
        )
        return UNUSABLE
    chosen = dataclasses.replace(
        outputs,
        baseline=outputs.baseline or project.baseline,
        refuse_obligations=outputs.refuse_obligations or project.refuse_obligations,
    )
    return _certify(project.programs, chosen, project, many=True)


def _certify(
    requests: Mapping[str, Request], outputs: Outputs, project: Project, *, many: bool
) -> int:
    where = ""
    try:
        key = None if outputs.sign_with is None else read_signing_key(outputs.sign_with)
        accepted = {name: project.accepted(r.target) for name, r in requests.items()}
        answers: dict[str, Answer] = {}
        modules: dict[tuple[str, Path], ModuleType] = {}
        for name, request in requests.items():
            where = f"{request.target.place}: "
            source = (request.target.place, request.target.root)
            modules[source] = modules.get(source) or request.target.module()
            answers[name] = request.answer(modules[source])
        where = ""
        reports = {name: answer.reports for name, answer in answers.items()}
        if outputs.baseline is not None and outputs.update_baseline:
            write_baseline(outputs.baseline, reports)
        reviews = _reviews(reports, accepted, outputs.baseline)
        issued = {} if outputs.issues_nothing else _issued(answers, accepted, reviews, outputs)
    except (*_UNUSABLE, ImportError, OSError) as error:
        outputs.write(f"{where}{error}")
        return UNUSABLE
    text = _rendered(reports, reviews, outputs.format, many)
    if outputs.format == "text":
        text = "\n\n".join(
            _text(name, answer, reviews[name], accepted[name], many)
            for name, answer in answers.items()
        )
    if outputs.out is None:
        outputs.write(text)
    else:
        outputs.out.write_text(text + "\n", encoding="utf-8")
    for name, certificate in issued.items():
        _write_certificate(name, certificate, answers[name], outputs, key, many)
    failed = any(_fails(reports[name], reviews[name], outputs) for name in reports)
    return REJECTED if failed else CERTIFIED


def _fails(reports: Mapping[str, Report], review: Review, outputs: Outputs) -> bool:
    return bool(review.open_findings(reports, caveats=outputs.refuse_obligations))


def _reviews(
    programs: Mapping[str, Mapping[str, Report]],
    accepted: Mapping[str, tuple[Acceptance, ...]],
    baseline: Path | None,
) -> dict[str, Review]:
    known = None if baseline is None else known_findings(programs, read_baseline(baseline))
    return {
        name: Review(
            {(a.rule, a.text): str(a) for a in accepted[name]},
            None if known is None else known[name],
        )
        for name in programs
    }


def _issued(
    answers: Mapping[str, Answer],
    accepted: Mapping[str, tuple[Acceptance, ...]],
    reviews: Mapping[str, Review],
    outputs: Outputs,
) -> dict[str, Certificate]:
    """The certificates of the programs that no finding rejects, known or not."""
    return {
        name: answer.certificate().with_acceptances(accepted[name])
        for name, answer in answers.items()
        if not answer.rejected and not _fails(answer.reports, reviews[name], outputs)
    }


def _write_certificate(
    name: str,
    certificate: Certificate,
    answer: Answer,
    outputs: Outputs,
    key: SigningKey | None,
    many: bool,
) -> None:
    made = certificate if key is None else sign(certificate, key)
    if outputs.certificate is not None:
        _place(outputs.certificate, f"{name}.json", many).write_text(made.to_json() + "\n")
    if outputs.bundle is not None:
        text = Bundle.of(made, answer.programs).to_json()
        _place(outputs.bundle, f"{name}.secfad", many).write_text(text)


def _place(path: Path, name: str, many: bool) -> Path:
    """The file of one program: the path, or a file in that folder."""
    if not many:
        return path
    path.mkdir(parents=True, exist_ok=True)
    return path / name


def _rendered(
    programs: Mapping[str, Mapping[str, Report]],
    reviews: Mapping[str, Review],
    format: str,
    many: bool,
) -> str:
    """The reports of all programs in one of the formats."""
    if format == "sarif":
        return render_sarif(programs, reviews)
    if format == "github":
        return render_github(programs, reviews)
    if format == "json":
        bodies = {name: reports_to_dict(reports) for name, reports in programs.items()}
        return to_json(bodies if many else next(iter(bodies.values())))
    together = {
        f"{name}, {mode}" if many else mode: report
        for name, reports in programs.items()
        for mode, report in reports.items()
    }
    return render_html(together, "Certified programs" if many else Path(next(iter(programs))).name)


def _text(
    name: str, answer: Answer, review: Review, accepted: tuple[Acceptance, ...], many: bool
) -> str:
    """Findings, then a verdict per mode and, if nothing is rejected, one per question."""
    reports = answer.reports
    parts = [f"{name}\n{'=' * len(name)}", ""] if many else []
    parts.append(render_texts(reports))
    if review.known:
        one = len(review.known) == 1
        parts.append(f"{len(review.known)} finding{'' if one else 's'} known from the baseline.")
    if answer.subject is None:
        findings = [finding for report in reports.values() for finding in report.findings]
        said = (review.acceptance(finding) for finding in findings)
        parts += dict.fromkeys(words for words in said if words is not None)
    elif not answer.rejected:
        parts += ["", answers_text(answer.certificate().with_acceptances(accepted))]
    return "\n".join(parts)
