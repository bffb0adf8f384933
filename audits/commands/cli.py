"""`secfad`: the command line.

Exit codes: 0 done, 1 rejected (not certified, over budget, a ledger that does not verify), 2
invalid input, 101 a bug in secfad. Errors that the packages raise on purpose are shown as one
message, without a traceback. Each command imports its dependences when it runs, so help is fast.
"""

import importlib.metadata
import sys
import traceback
import warnings
from pathlib import Path
from typing import Annotated

import typer

from audits.commands import bundles as bundle_commands
from audits.commands import certificates as certificate_commands
from audits.commands import program_commands

REJECTED, UNUSABLE, INTERNAL = 1, 2, 101

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
ledger_app = typer.Typer(
    help="Show, verify, plan and export the budget of a run.", no_args_is_help=True
)
program_commands.add_to(app)
certificate_commands.add_to(app)
bundle_commands.add_to(app)
app.add_typer(ledger_app, name="ledger")

LedgerPath = Annotated[Path, typer.Argument(help="A ledger file, such as ledger.db of a run.")]


def _show_version(asked: bool) -> None:
    if not asked:
        return
    try:
        version = importlib.metadata.version("secfad")
    except importlib.metadata.PackageNotFoundError:
        version = "from source"
    typer.echo(f"secfad {version}")
    raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Private federated automatic differentiation: certify, run, account."""


def main() -> None:
    """Runs the command of this process and exits."""
    # Warnings name lines that the reader of the report did not write.
    warnings.showwarning = lambda message, *_, **__: typer.echo(f"warning: {message}", err=True)
    try:
        app(prog_name="secfad")
    except Exception as error:
        code = _exit_code(error)
        if code == INTERNAL:
            traceback.print_exception(error)
            typer.echo("This is a bug in secfad, not in its input. Please report it.", err=True)
        else:
            typer.echo(f"{type(error).__name__}: {error}", err=True)
        sys.exit(code)


# Errors by the names of their classes: a command may have imported neither JAX nor its package.
_REJECTED = frozenset(
    {
        "audits.certifying.CertificationError",
        "audits.proofs.places.VerificationError",
        "privacy.certificates.certificates.CertificateError",
        "privacy.errors.BudgetExceeded",
        "privacy.errors.LedgerCorrupt",
    }
)
_UNUSABLE = frozenset(
    {
        "audits.commands.targets.UnusableInput",
        "audits.quickstart.errors.ExperimentError",
        "privacy.errors.PrivacyError",
        "secagg.errors.SecAggError",
        "secfad.errors.SecfadError",
        "builtins.OSError",
    }
)


def _exit_code(error: Exception) -> int:
    """The exit code of an exception."""
    kinds = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__}
    if kinds & _REJECTED:
        return REJECTED
    return UNUSABLE if kinds & _UNUSABLE else INTERNAL


@app.command()
def modes(
    target: Annotated[
        str,
        typer.Argument(metavar=program_commands.TARGET, help="A computation in a file or module."),
    ],
    argument: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Argument to differentiate with respect to; repeatable."),
    ] = None,
    noise_multiplier: Annotated[
        float | None,
        typer.Option(help="Also show epsilon for this noise on the sums of every round."),
    ] = None,
    sampling_rate: Annotated[
        float, typer.Option(help="Poisson rate of cohorts, with noise by the server.")
    ] = 1.0,
    steps: Annotated[int, typer.Option(help="Number of derivatives, each on its own cohort.")] = 1,
    delta: Annotated[float, typer.Option(help="Of epsilon.")] = 1e-5,
) -> None:
    """Shows the cost of each mode of the derivative: rounds, bytes, epsilon, same clients again.

    Differentiates with respect to the first floating-point server argument, unless --argument names
    another. The file defines the computation NAME and SPECS = {"NAME": (jax.ShapeDtypeStruct(shape,
    dtype), ...)}, the shapes of the arguments at the server or at one client. Loading a file runs
    it.
    """
    from audits.commands.targets import Target, UnusableInput, load, require_traceable
    from audits.mode_prices import Setting, mode_prices, positions, prices_table
    from secfad import Computation, plan

    where = Target.parse(target)
    try:
        subject, specs = load(where)
        if not isinstance(subject, Computation):
            raise UnusableInput(
                f"Expected `{where.name}` to be a computation, got a {type(subject).__name__}. "
                "A program has a mode already."
            )
        require_traceable(subject, specs, where)
    except UnusableInput as error:
        raise UnusableInput(f"{where.place}: {error}") from error
    argnums = positions(subject, specs, argument or ())
    typer.echo(plan(subject, *specs, argnums=argnums).table())
    if noise_multiplier is not None:
        setting = Setting(noise_multiplier, sampling_rate, steps, delta)
        prices = mode_prices(subject, specs, setting, argument or ())
        typer.echo("\n" + prices_table(prices, setting))


@app.command()
def run(
    source: Annotated[
        str,
        typer.Argument(
            metavar="CONFIG.toml|quickstart|quickstart-distributed", help="What to run."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the run; by default the next free secfad-runs/NAME."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue a run that was interrupted.")
    ] = False,
) -> None:
    """Runs a private experiment: certify, SecAgg and noise, one ledger, results and plots."""
    from audits.quickstart.configuration import load

    configuration = load(source)
    from rich.console import Console

    from audits.quickstart.console import default_folder, run_experiment

    folder = out or default_folder(configuration.name, resume=resume)
    run_experiment(configuration, folder, resume=resume, console=Console())


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="Folder of a finished run.")]) -> None:
    """Writes one self-contained HTML page of a run."""
    from audits.quickstart.pages import write_page

    typer.echo(str(write_page(folder)))


@app.command()
def doctor() -> None:
    """Checks versions, devices, extras, and files of this folder that hide a package of secfad.

    Exit code 0: in order; 1: something is wrong, with what to do about it.
    """
    from audits.commands.doctor import examined

    checks = examined(Path.cwd())
    for check in checks:
        typer.echo(str(check))
    raise typer.Exit(REJECTED if any(check.remedy for check in checks) else 0)


@ledger_app.command("show")
def ledger_show(
    path: LedgerPath,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.svg|png", help="Also draw the budget as a picture.")
    ] = None,
) -> None:
    """Shows budgets, the spent budget by purpose in both views, its history, and the remaining
    slots.
    """
    from rich.console import Console

    from audits.commands.ledgers import curve, draw_curve, overview
    from privacy import Ledger
    from privacy.ledger.spending import spending

    with Ledger.open(path) as ledger:
        Console().print(overview(ledger))
        _echo_remarks(ledger)
        spent, budget = spending(ledger), ledger.charter.budget
    if spent:
        Console().print(curve(spent, budget))
    if spent and plot is not None:
        draw_curve(spent, budget, plot)
        typer.echo(f"drawn to {plot}")


def _echo_remarks(ledger) -> None:
    for remark in ledger.bounds.remarks:
        typer.echo(remark)


@ledger_app.command("verify")
def ledger_verify(
    path: LedgerPath,
    head: Annotated[
        str | None,
        typer.Option(help="A head from a checkpoint or results.json that the ledger must contain."),
    ] = None,
) -> None:
    """Checks every record and every total; exit code 1 names the first bad record."""
    from privacy import Ledger, LedgerCorrupt

    with Ledger.open(path) as ledger:
        ledger.verify()
        if head is not None and not ledger.is_descendant_of(head):
            raise LedgerCorrupt(
                f"Expected a ledger that contains the head {head}, got one that ends in "
                f"{ledger.head}. It was cut short, or is another one."
            )
        typer.echo(f"verified: {sum(1 for _ in ledger.entries())} records, head {ledger.head}")
        _echo_remarks(ledger)


@ledger_app.command("plan")
def ledger_plan(
    path: LedgerPath,
    slot: Annotated[
        list[str] | None,
        typer.Option(metavar="PURPOSE,RATE,NOISE,COUNT", help="Further releases; repeatable."),
    ] = None,
    fixed: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PURPOSE,SIZE,NOISE,COUNT",
            help="Further releases on cohorts of a fixed size, for a ledger on a filter; "
            "repeatable.",
        ),
    ] = None,
) -> None:
    """Prices further releases together with all declared or charged ones; writes nothing."""
    from rich.console import Console

    from audits.commands.ledgers import parse_fixed, parse_slot, quote
    from privacy import Ledger
    from privacy.errors import InvalidEvent
    from privacy.ledger.planning import quote_on

    if slot and fixed:
        raise InvalidEvent("Expected --slot or --fixed, got both. Price one schedule at a time.")
    with Ledger.open(path) as ledger:
        if fixed:
            draws = [parse_fixed(text, ledger.charter.population) for text in fixed]
            plan = quote_on(ledger, draws)
        else:
            plan = ledger.plan([parse_slot(text) for text in slot or ()])
        Console().print(quote(plan))
        _echo_remarks(ledger)
    before = "charged" if fixed else "declared"
    typer.echo(
        f"together with everything {before}, this " + ("fits" if plan.fits else "does not fit")
    )
    raise typer.Exit(0 if plan.fits else REJECTED)


@ledger_app.command("export")
def ledger_export(
    path: LedgerPath,
    out: Annotated[Path, typer.Option("-o", "--out", help="A new file, one record per line.")],
) -> None:
    """Writes the chain as lines of JSON and prints its head."""
    from privacy import Ledger
    from privacy.ledger.export import export_ledger

    with Ledger.open(path) as ledger:
        typer.echo(export_ledger(ledger, out))


if __name__ == "__main__":
    main()
