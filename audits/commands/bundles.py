"""The commands about bundles: `verify` of a bundle, and `explain`.

Neither imports JAX or the program of the bundle.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from audits.proofs.bundles import Bundle
    from privacy.certificates.certificates import Certificate


def add_to(app: typer.Typer) -> None:
    """Registers the commands."""
    app.command()(explain)


def verify_bundle(text: bytes, key: Path | None) -> "Certificate":
    """Checks signature and proofs of a bundle, prints what was checked, and returns the certificate."""
    from audits.proofs.statements import signature_of

    bundle = _read(text, key)
    bundle.verify()
    found = bundle.certificate
    typer.echo(f"{found.subject}: {found.profile}, {found.cohort}, issued {bundle.issued}")
    for mode, digest in sorted(found.digests.items()):
        typer.echo(f"  {mode:8s} {digest}  proof checked")
    for obligation in found.obligations:
        typer.echo(f"  on condition {obligation.rule}: {obligation.text}")
    for acceptance in found.acceptances:
        typer.echo(f"  {acceptance}")
    typer.echo(f"  signature: {signature_of(bundle)}")
    return found


def explain(
    bundle: Annotated[Path, typer.Argument(metavar="FILE.secfad", help="A bundle.")],
    key: Annotated[
        Path | None, typer.Option(help="Public key file of the required signer.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Write one printable page.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Number of runs, each on its own cohort.")] = 1,
    sampling_rate: Annotated[
        float, typer.Option(help="Poisson rate of cohorts, with noise by the server.")
    ] = 1.0,
    delta: Annotated[float, typer.Option(help="Of epsilon.")] = 1e-5,
) -> None:
    """Says in plain sentences what a bundle proves, assumes, and does not say.

    Checks the proof first. Exit code 0: the proof holds; 1: it does not.
    """
    from audits.proofs.pages import page
    from audits.proofs.statements import Setting, explain_text

    found = _read(bundle.read_bytes(), key)
    found.verify()
    setting = Setting(steps, sampling_rate, delta)
    if html is None:
        typer.echo(explain_text(found, setting))
    else:
        html.write_text(page(found, setting), encoding="utf-8")


def _read(text: bytes, key: Path | None) -> "Bundle":
    from audits.proofs.bundles import Bundle
    from privacy.certificates.keys import read_public_key

    return Bundle.from_json(text, None if key is None else read_public_key(key))
