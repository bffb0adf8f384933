"""The commands about certificates: `certify`, `verify`, `snapshot` and `new-key`.

`certify` searches for a proof and writes a certificate. `verify` re-checks a certificate and its
signature with the small independent verifier. `snapshot` compares the facts of programs with
reviewed files, before a commit. Each command imports its dependences when it runs.
"""

from pathlib import Path
from typing import Annotated, Literal

import typer

from audits.commands.bundles import verify_bundle

REJECTED = 1
Target = typer.Argument(metavar="FILE.py:NAME", help="A computation in a file.")
Mode = Literal["all", "primal", "forward", "reverse", "factored", "mixed", "blockwise"]


def add_to(app: typer.Typer) -> None:
    """Registers the commands."""
    app.command()(certify)
    app.command()(verify)
    app.command()(snapshot)
    app.command()(new_key)


def certify(
    target: Annotated[str | None, Target] = None,
    mode: Annotated[
        Mode, typer.Option(help="Derivatives to certify in addition to the computation itself.")
    ] = "all",
    format: Annotated[
        Literal["text", "json", "sarif", "html", "github"], typer.Option(help="Of the report.")
    ] = "text",
    out: Annotated[Path | None, typer.Option("-o", "--out", help="File for the report.")] = None,
    certificate: Annotated[
        Path | None, typer.Option(help="File for the certificate, if one is issued.")
    ] = None,
    sign: Annotated[
        Path | None,
        typer.Option(metavar="KEY", help="Private key file; writes a signed certificate."),
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(metavar="FILE.secfad", help="File for certificate and programs together."),
    ] = None,
    explain: Annotated[
        str | None, typer.Option(metavar="RULE", help="Explain a rule, such as FAD102, and stop.")
    ] = None,
    error_on_caveat: Annotated[
        bool, typer.Option("--error-on-caveat", help="Treat obligations as rejections.")
    ] = False,
) -> None:
    """Proves that a computation and its derivatives communicate only by broadcast and sum.

    Loading a file runs it. Exit code 0: certified; 1: rejected with findings; 2: invalid input.
    """
    if explain is not None:
        typer.echo(_explanation(explain))
        return
    path, name = split_target(target or "")
    from audits.commands.certify_file import certify_file

    code = certify_file(
        path, name, modes=mode, format=format, out=out, certificate=certificate, bundle=bundle,
        sign_with=sign, error_on_caveat=error_on_caveat, write=typer.echo,
    )  # fmt: skip
    raise typer.Exit(code)


def verify(
    certificate: Annotated[
        Path, typer.Argument(help="A bundle, or a certificate, plain or signed.")
    ],
    key: Annotated[
        Path | None, typer.Option(help="Public key file of the required signer.")
    ] = None,
    program: Annotated[
        str | None,
        typer.Option(metavar="FILE.py:NAME", help="Program for which to re-check the proof."),
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
            _verify_against(bundled, program)
            typer.echo(f"  {program} is the program of the bundle")
        return
    trusted = None if key is None else read_public_key(key)
    found = read_certificate(text, trusted)
    typer.echo(f"{found.subject}: {found.profile}, {found.cohort}")
    if program is not None:
        _verify_against(found, program)
    for mode, digest in sorted(found.digests.items()):
        checked = "form only" if program is None else "proof re-checked"
        typer.echo(f"  {mode:8s} {digest}  {checked}")
    for obligation in found.obligations:
        typer.echo(f"  on condition {obligation.rule}: {obligation.text}")
    typer.echo(f"  signed by {key}" if key else "  not signed, or not checked")


def _verify_against(found, target: str) -> None:
    """Traces the program again and re-checks the evidence of every mode."""
    from audits.certifying import programs_of
    from audits.commands.certify_file import load
    from audits.proofs.verification import verify as verify_evidence
    from privacy.certificates.certificates import CertificateMismatch
    from privacy.mechanisms.privatization import PrivateProgram

    subject, specs = load(*split_target(target))
    modes = ("primal",) if not specs else tuple(found.digests)
    for mode, traced in programs_of(subject, *specs, modes=modes).items():
        found.check_binding(digest=traced.digest, acknowledged=[o.rule for o in found.obligations])
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
    targets: Annotated[
        list[str], typer.Argument(metavar="FILE.py:NAME...", help="Computations in files.")
    ],
    folder: Annotated[Path, typer.Option(help="Folder of the snapshots.")] = Path("certificates"),
    mode: Annotated[Mode, typer.Option(help="Derivatives to compare.")] = "all",
    update: Annotated[
        bool, typer.Option("--update", help="Write the snapshots instead of comparing.")
    ] = False,
) -> None:
    """Compares the facts of certified programs with reviewed snapshots, one file per program.

    Exit code 0: no change; 1: rejected, changed or without a snapshot; 2: invalid input.
    """
    from audits.certifying import check_modes
    from audits.commands.certify_file import load, modes_of, render
    from audits.snapshots import difference, facts, write

    failed = False
    for target in targets:
        path, name = split_target(target)
        subject, specs = load(path, name)
        results = check_modes(subject, *specs, modes=modes_of(mode))
        reports = {m: report for m, (report, _) in results.items()}
        rejected = {m: r for m, r in reports.items() if r.kind == "reject"}
        if rejected:
            failed = True
            typer.echo(render(rejected, "text", title=target))
            continue
        file, found = folder / f"{path.stem}.{name}.json", facts(reports)
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


def split_target(target: str) -> tuple[Path, str]:
    """Splits FILE.py:NAME."""
    path, _, name = target.rpartition(":")
    if not path or not name:
        raise typer.BadParameter("Expected FILE.py:NAME, such as model.py:round_loss.")
    return Path(path), name


def _explanation(name: str) -> str:
    """The card of a rule."""
    from audits.reports.text import explain

    try:
        return explain(name.upper())
    except KeyError as error:
        raise typer.BadParameter(error.args[0]) from error
