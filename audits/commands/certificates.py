"""The commands about certificates: `verify`, `snapshot` and `new-key`.

`verify` re-checks a certificate and its
signature with the small independent verifier. `snapshot` compares the facts of programs with
reviewed files, before a commit. Each command imports its dependences when it runs.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from audits.commands.bundles import verify_bundle
from audits.commands.program_commands import TARGET, Mode, Style, names

if TYPE_CHECKING:
    from audits.commands.requests import Request
    from privacy.certificates.certificates import Certificate

REJECTED = 1


def add_to(app: typer.Typer) -> None:
    """Registers the commands."""
    app.command()(verify)
    app.command()(snapshot)
    app.command()(new_key)


def verify(
    certificate: Annotated[
        Path, typer.Argument(help="A bundle, or a certificate, plain or signed.")
    ],
    key: Annotated[
        Path | None, typer.Option(help="Public key file of the required signer.")
    ] = None,
    program: Annotated[
        str | None,
        typer.Option(metavar=TARGET, help="Program for which to re-check the proof."),
    ] = None,
    mode: Annotated[
        Mode | None, typer.Option(help="Of the private gradient, if it was certified with one.")
    ] = None,
    wrt: Annotated[
        list[str] | None,
        typer.Option(metavar="ARGUMENT", help="As it was certified; repeatable."),
    ] = None,
    style: Annotated[Style, typer.Option(help="As it was certified.")] = "native",
    clients: Annotated[
        list[str] | None,
        typer.Option(metavar="ARGUMENT", help="As it was certified; repeatable."),
    ] = None,
) -> None:
    """Verifies a bundle or a certificate: its format, its signature, and its proof.

    A bundle (FILE.secfad) holds its programs, so its proof is checked without their source and
    without JAX. Of a certificate alone, only format and signature are checked without --program. Exit
    code 0: verified; 1: not verified.
    """
    from audits.proofs.bundles import is_bundle
    from privacy.certificates.keys import read_public_key
    from privacy.certificates.statements import read_certificate

    text = certificate.read_bytes()
    if is_bundle(text):
        bundled = verify_bundle(text, key)
        if program is not None:
            _verify_against(bundled, _request(program, mode, wrt, style, clients))
            typer.echo(f"  {program} is the program of the bundle")
        return
    trusted = None if key is None else read_public_key(key)
    found = read_certificate(text, trusted)
    typer.echo(f"{found.subject}: {found.profile}, {found.cohort}")
    if program is not None:
        _verify_against(found, _request(program, mode, wrt, style, clients))
    checked = "form only" if program is None else "proof re-checked"
    for name, digest in sorted(found.digests.items()):
        typer.echo(f"  {name:8s} {digest}  {checked}")
    for obligation in found.obligations:
        typer.echo(f"  on condition {obligation.rule}: {obligation.text}")
    if found.mechanism:
        stated = found.mechanism
        typer.echo(
            f"  stated mechanism: {stated['mechanism']}, clip norm {stated['clip_norm']}, noise "
            f"multiplier {stated['noise_multiplier']}, for {found.purpose}"
        )
    for acceptance in found.acceptances:
        typer.echo(f"  {acceptance}")
    typer.echo(f"  signed by {key}" if key else "  not signed, or not checked")


def _request(
    program: str, mode: str | None, wrt: list[str] | None, style: str, clients: list[str] | None
) -> "Request":
    """The program of a certificate."""
    from audits.commands.projects import Project
    from audits.commands.requests import Request
    from audits.commands.targets import Target

    declared = Project.find().programs.get(program)
    if declared is not None:
        return declared
    return Request(
        Target.parse(program), modes=(mode or "all",), wrt=names(wrt), style=style,
        clients=names(clients),
    )  # fmt: skip


def _verify_against(found: "Certificate", request: "Request") -> None:
    """Traces the program again and re-checks the evidence of every mode."""
    from audits.proofs.verification import verify as verify_evidence
    from privacy.certificates.certificates import CertificateMismatch
    from privacy.mechanisms.privatization import PrivateProgram

    subject, programs = request.trace(found.digests, found.mechanism, found.purpose)
    for mode, traced in programs.items():
        found.check_binding(digest=traced.digest, acknowledged={o.rule for o in found.obligations})
        verify_evidence(found, traced, mode)
    if isinstance(subject, PrivateProgram):
        stated, now = dict(found.mechanism), subject.mechanism.record()
        if (stated, found.purpose) != (now, subject.purpose):
            raise CertificateMismatch(
                f"FAD006: expected mechanism {stated} for {found.purpose}, got {now} for "
                f"{subject.purpose}. Certify the program with the mechanism that will run.",
                rule="FAD006",
            )


def snapshot(
    targets: Annotated[list[str], typer.Argument(metavar=f"{TARGET}...", help="Computations.")],
    folder: Annotated[Path, typer.Option(help="Folder of the snapshots.")] = Path("certificates"),
    mode: Annotated[Mode, typer.Option(help="Derivatives to compare.")] = "all",
    update: Annotated[
        bool, typer.Option("--update", help="Write the snapshots instead of comparing.")
    ] = False,
) -> None:
    """Compares the facts of certified programs with reviewed snapshots, one file per program.

    Exit code 0: no change; 1: rejected, changed or without a snapshot; 2: invalid input.
    """
    from audits.commands.requests import Request
    from audits.commands.targets import Target
    from audits.reports.text import render_texts
    from audits.snapshots import difference, facts, write

    failed = False
    for target in targets:
        request = Request(Target.parse(target), modes=(mode,))
        reports = request.answer().reports
        rejected = {m: r for m, r in reports.items() if r.kind == "reject"}
        if rejected:
            failed = True
            typer.echo(render_texts(rejected))
            continue
        file, found = folder / f"{request.target.stem}.{request.target.name}.json", facts(reports)
        if update:
            write(file, found)
            continue
        changed = difference(file, found)
        if changed is not None:
            failed = True
            typer.echo(f"{target}: the facts differ from {file}\n{changed}")
            typer.echo(
                f"If this is intended, run: secfad snapshot {target} --folder {folder} --update"
            )
    raise typer.Exit(REJECTED if failed else 0)


def new_key(
    path: Annotated[
        Path, typer.Argument(help="File of the private key; the public key gets the suffix .pub.")
    ],
) -> None:
    """Generates a pair of Ed25519 key files for signing certificates."""
    from privacy.certificates.keys import new_key_files

    private, public = new_key_files(path)
    typer.echo(f"{private}: private, readable by you only; sign with it\n{public}: hand this out")
