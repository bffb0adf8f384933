"""The commands about programs: `certify` asks about them, `accept` takes on their obligations."""

import datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

Mode = Literal["all", "primal", "forward", "reverse", "factored", "mixed", "blockwise"]
Style = Literal["native", "stacked", "drjax", "spmd"]
REJECTED = 1
TARGET = "FILE.py:NAME|package.module:NAME"


def add_to(app: typer.Typer) -> None:
    """Registers the commands."""
    app.command()(certify)
    app.command()(accept)


def certify(
    target: Annotated[
        str | None, typer.Argument(metavar=TARGET, help="A computation in a file or module.")
    ] = None,
    all: Annotated[
        bool, typer.Option("--all", help="Every program of \\[tool.secfad] in pyproject.toml.")
    ] = False,
    mode: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODE",
            help="Derivative to certify besides the computation itself: all (the default), primal, "
            "forward, reverse, factored, mixed, blockwise; repeatable.",
        ),
    ] = None,
    wrt: Annotated[
        list[str] | None,
        typer.Option(metavar="ARGUMENT", help="Argument of the derivatives; repeatable."),
    ] = None,
    dp: Annotated[
        bool, typer.Option("--dp", help="Privatize the computation, and certify that program.")
    ] = False,
    clip_norm: Annotated[
        list[str] | None,
        typer.Option(metavar="C|NAME=C", help="L2 norm per client, of all sums or of one."),
    ] = None,
    noise_multiplier: Annotated[
        float | None, typer.Option(metavar="Z", help="Noise per clip norm.")
    ] = None,
    style: Annotated[Style, typer.Option(help="How the program is written.")] = "native",
    clients: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ARGUMENT", help="Argument that holds clients, in another style; repeatable."
        ),
    ] = None,
    public: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME|DIGEST", help="Captured array that anybody may know; repeatable."
        ),
    ] = None,
    format: Annotated[
        Literal["text", "json", "sarif", "html", "github"], typer.Option(help="Of the report.")
    ] = "text",
    out: Annotated[Path | None, typer.Option("-o", "--out", help="File for the report.")] = None,
    certificate: Annotated[
        Path | None, typer.Option(help="File for the certificate; with --all a folder.")
    ] = None,
    sign: Annotated[
        Path | None,
        typer.Option(metavar="KEY", help="Private key file; writes a signed certificate."),
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.secfad",
            help="File for certificate and programs together; with --all a folder.",
        ),
    ] = None,
    explain: Annotated[
        str | None, typer.Option(metavar="RULE", help="Explain a rule, such as FAD102, and stop.")
    ] = None,
    error_on_caveat: Annotated[
        bool,
        typer.Option("--error-on-caveat", help="Treat obligations nobody accepted as rejections."),
    ] = False,
    baseline: Annotated[
        Path | None, typer.Option(help="File of known findings, which do not count.")
    ] = None,
    update_baseline: Annotated[
        bool, typer.Option("--update-baseline", help="Write the findings to --baseline.")
    ] = False,
) -> None:
    """Proves that a computation and its derivatives communicate only by broadcast and sum.

    Loading a file runs it. Exit code 0: certified; 1: rejected with findings; 2: invalid input.
    """
    if explain is not None:
        typer.echo(_explanation(explain))
        return
    asked = [mode, wrt, dp, clip_norm, noise_multiplier, clients, public]
    if all and (target is not None or any(asked) or style != "native"):
        raise typer.BadParameter(
            "Expected --all without a program and options of one, which stand in pyproject.toml."
        )
    if target is None and not all:
        raise typer.BadParameter("Expected FILE.py:NAME, such as model.py:round_loss, or --all.")
    if not dp and (clip_norm or noise_multiplier is not None):
        raise typer.BadParameter("Expected --dp with --clip-norm and --noise-multiplier. Add --dp.")
    from audits.commands.certification import Outputs, certify_all, certify_one
    from audits.commands.mechanisms import of_options
    from audits.commands.requests import Request
    from audits.commands.targets import Target

    outputs = Outputs(
        format, out, certificate, bundle, sign, error_on_caveat, baseline, update_baseline,
        typer.echo,
    )  # fmt: skip
    if target is None:
        raise typer.Exit(certify_all(outputs))
    request = Request(
        Target.parse(target),
        modes=tuple(mode or ("all",)),
        wrt=names(wrt),
        style=style,
        clients=names(clients),
        public=names(public),
        mechanism=of_options(clip_norm or (), noise_multiplier) if dp else None,
    )
    raise typer.Exit(certify_one(request, outputs))


def accept(
    rule: Annotated[str, typer.Argument(metavar="RULE", help="Rule of an obligation.")],
    reason: Annotated[str, typer.Option(help="Why it is acceptable.")],
    by: Annotated[str, typer.Option(metavar="WHO", help="Who accepts it.")],
    program: Annotated[
        str | None,
        typer.Option(
            metavar=TARGET,
            help="A program, or its name in [tool.secfad]; not needed if only one has the rule.",
        ),
    ] = None,
    date: Annotated[
        str | None, typer.Option(metavar="YYYY-MM-DD", help="Of the acceptance; today by default.")
    ] = None,
) -> None:
    """Accepts an obligation of a program: certificates carry it, and --error-on-caveat lets it pass.

    Writes secfad-acceptances.json next to pyproject.toml. A run still has to acknowledge the
    obligation. Exit code 0: written; 1: the program is rejected; 2: invalid input, or no such
    obligation.
    """
    from audits.commands.accepting import accept_rule

    day = date or datetime.date.today().isoformat()
    code = accept_rule(
        rule.upper(), reason=reason, by=by, program=program, date=day, write=typer.echo
    )  # fmt: skip
    raise typer.Exit(code)


def names(given: list[str] | None) -> tuple[str, ...]:
    """Names from repeated options, each with one name or several between commas."""
    return tuple(name.strip() for text in given or () for name in text.split(",") if name.strip())


def _explanation(name: str) -> str:
    """The card of a rule."""
    from audits.reports.text import explain

    try:
        return explain(name.upper())
    except KeyError as error:
        raise typer.BadParameter(error.args[0]) from error
