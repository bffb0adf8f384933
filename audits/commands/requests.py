"""What is asked about a program, as the command line and pyproject.toml state it, and the answer.

    target, style --load--> subject --privatize--> private program --check every mode--> reports

A native computation is checked in each mode. With a mechanism, the private program of the computation, or
of one derivative, is checked instead. A program of another style is checked as it is written; a DrJAX or
SPMD program also through its native projection, which is what its certificate is about.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

import jax

from audits.certifying import KNOWN_MODES, MODES, check_modes, issue, obligations, programs_of
from audits.checking.arguments import digests_of
from audits.checking.checking import check
from audits.checking.frontends import Arg
from audits.commands.mechanisms import of_record
from audits.commands.targets import (
    Target,
    UnusableInput,
    load,
    load_function,
    require_traceable,
)
from audits.projections import project, require_same_sums, traced_cohort
from audits.rules.findings import Report
from audits.transfer.styles import STYLES
from privacy.certificates.certificates import Certificate, Obligation
from privacy.certificates.cohort_ranges import CohortRange
from privacy.mechanisms.mechanisms import Mechanism
from privacy.mechanisms.privatization import PrivateProgram, privatize
from secfad import Computation, Program, grad

AS_WRITTEN = "as written"
STACKED_MODES = ("primal", "forward", "reverse")
Results = dict[str, tuple[Report, Program | None]]


@dataclasses.dataclass(frozen=True)
class Request:
    """A question about one program.

    Attributes:
      target: The program.
      modes: `"all"`, or modes of the derivative; the computation itself is always checked.
      wrt: Names of the arguments of the derivatives; all floating-point ones of the server by default.
      style: `"native"`, `"stacked"`, `"drjax"` or `"spmd"`.
      clients: Names of the arguments that hold clients, in another style than native.
      public: Names of arrays of the module that anybody may know, or digests.
      mechanism: With it, the private program is certified.
      purpose: Whose budget pays for the private program.
    """

    target: Target
    modes: tuple[str, ...] = ("all",)
    wrt: tuple[str, ...] = ()
    style: str = "native"
    clients: tuple[str, ...] = ()
    public: tuple[str, ...] = ()
    mechanism: Mechanism | None = None
    purpose: str = "training"

    def __post_init__(self) -> None:
        unknown = set(self.modes) - {"all", *KNOWN_MODES}
        if unknown:
            raise UnusableInput(
                f"Expected modes among all, {', '.join(KNOWN_MODES)}, got {sorted(unknown)}."
            )
        if self.style not in STYLES:
            raise UnusableInput(
                f"Expected a style of {', '.join(STYLES)}, got {self.style!r}. Most programs are "
                "native."
            )
        if self.style == "native" and self.clients:
            raise UnusableInput(
                "Expected --clients with --style stacked, drjax or spmd, got a native program. Its "
                "placements stand in @secfad.computation."
            )
        if self.style == "stacked" and self.mechanism is not None:
            raise UnusableInput(
                "Expected a native, DrJAX or SPMD program with --dp, got a stacked one. Stacked "
                "programs are only checked: write a computation to privatize it."
            )

    @property
    def derivatives(self) -> tuple[str, ...]:
        """The modes to check, the computation first."""
        if "all" not in self.modes:
            return tuple(dict.fromkeys(("primal", *self.modes)))
        usual = STACKED_MODES if self.style == "stacked" else MODES
        return tuple(dict.fromkeys((*usual, *(m for m in self.modes if m != "all"))))

    def answer(self, module: ModuleType | None = None) -> "Answer":
        """Checks the program.

        Args:
          module: The module of the target, if it is loaded already.

        Raises:
          UnusableInput: The program cannot be loaded or asked so.
          MechanismError: The mechanism does not fit the program.
        """
        module = module or self.target.module()
        public = self._public(module)
        if self.style != "native":
            return self._of_arrays(module, public)
        subject, specs = load(self.target, module)
        if not isinstance(subject, Computation):
            if self.mechanism is not None or self.wrt:
                raise UnusableInput(
                    f"Expected `{self.target.name}` to be a computation with --dp and --wrt, got a "
                    f"{type(subject).__name__}, which has its mode and its mechanism already."
                )
            return Answer(subject, check_modes(subject, public=public))
        # Shapes that do not match are findings, with a rule and a line.
        require_traceable(subject, specs, self.target, passed=(TypeError, ValueError))
        return self._of_computation(subject, specs, public)

    def trace(
        self, modes: Iterable[str], mechanism: Mapping[str, Any], purpose: str
    ) -> tuple[PrivateProgram | Program | Computation, dict[str, Program]]:
        """What a certificate with these modes and this mechanism is about, unchecked.

        Args:
          modes: Of the certificate.
          mechanism: The record of its mechanism, empty without one; for a request without its own.
          purpose: Of that mechanism.

        Raises:
          UnusableInput: The program cannot be loaded.
          SecfadError: A mode does not exist for it.
        """
        module = self.target.module()
        if self.style == "native":
            subject, specs = load(self.target, module)
        else:
            function, shapes = load_function(self.target, module)
            subject, specs = project(function, self._arguments(shapes), style=self.style)
        if not isinstance(subject, Computation):
            return subject, programs_of(subject, modes=("primal",))
        argnums = self._argnums(tuple(subject.placements))
        if self.mechanism is None and not mechanism:
            return subject, programs_of(subject, *specs, modes=tuple(modes), argnums=argnums)
        derived = self._derivative(subject, argnums)
        if self.mechanism is None:
            private = privatize(derived, *specs, mechanism=of_record(mechanism), purpose=purpose)
        else:
            private = privatize(derived, *specs, mechanism=self.mechanism, purpose=self.purpose)
        return private, programs_of(private, modes=("primal",))

    def _of_computation(
        self, subject: Computation, specs: tuple, public: tuple[str, ...]
    ) -> "Answer":
        argnums = self._argnums(tuple(subject.placements))
        if self.mechanism is None:
            results = check_modes(
                subject, *specs, modes=self.derivatives, argnums=argnums, public=public
            )
            return Answer(subject, results)
        derived = self._derivative(subject, argnums)
        # What has no plain program has no private one: the reason is a finding.
        plain = check_modes(derived, *specs, public=public)
        if plain["primal"][0].kind == "reject":
            return Answer(derived, plain)
        private = privatize(derived, *specs, mechanism=self.mechanism, purpose=self.purpose)
        return Answer(private, check_modes(private, public=public))

    def _derivative(self, subject: Computation, argnums: tuple[int, ...] | None) -> Computation:
        """The computation, or the gradient in the one mode, that is privatized."""
        modes = [m for m in self.modes if m not in ("all", "primal")]
        if not modes:
            return subject
        if len(modes) > 1:
            raise UnusableInput(
                f"Expected one mode with --dp, got {', '.join(modes)}. Each private program has a "
                "certificate of its own."
            )
        if argnums is None:
            raise UnusableInput(
                "Expected the arguments of the private gradient. Add --wrt ARGUMENT."
            )
        at = argnums[0] if len(argnums) == 1 else argnums
        return grad(subject, at, mode=modes[0])  # type: ignore[arg-type]

    def _of_arrays(self, module: ModuleType, public: tuple[str, ...]) -> "Answer":
        """The answer about a function of another style."""
        function, specs = load_function(self.target, module)
        args = self._arguments(specs)
        if self.style == "stacked":
            return Answer(None, self._stacked(function, tuple(specs), args, public))
        written = check(function, args, style=self.style, public=public)
        written = dataclasses.replace(written, subject={**written.subject, "mode": AS_WRITTEN})
        if written.kind == "reject":
            return Answer(None, {}, written=written)
        computation, shapes = project(function, args, style=self.style)
        found = self._of_computation(computation, shapes, public)
        if self.mechanism is None and found.results["primal"][0].kind != "reject":
            require_same_sums(written, found.results["primal"][0])
        return Answer(found.subject, found.results, traced_cohort(args, self.style), written)

    def _arguments(self, specs: Mapping[str, Any]) -> list:
        """The arguments of a function of another style, with their holders."""
        self._known(self.clients, tuple(specs), "--clients")
        if not self.clients:
            raise UnusableInput(
                f"Expected the arguments that hold clients, among {', '.join(specs)}. Add "
                "--clients ARGUMENT."
            )
        return [
            Arg.tree(name, spec, "clients" if name in self.clients else "server")
            for name, spec in specs.items()
        ]

    def _stacked(
        self, function: Any, names: tuple[str, ...], args: list, public: tuple[str, ...]
    ) -> Results:
        results: Results = {}
        wrt = self._argnums(names) or _floating_at_server(args)
        for mode in self.derivatives:
            if mode not in STACKED_MODES:
                raise UnusableInput(
                    f"Expected modes among {', '.join(STACKED_MODES)} for a stacked program, got "
                    f"{mode}. The other modes are derivatives of computations."
                )
            if mode != "primal" and not wrt:
                continue
            report = check(function, args, style="stacked", mode=mode, wrt=wrt, public=public)
            subject = {**report.subject, "mode": mode}
            results[mode] = (dataclasses.replace(report, subject=subject), None)
        return results

    def _argnums(self, names: tuple[str, ...]) -> tuple[int, ...] | None:
        self._known(self.wrt, names, "--wrt")
        return tuple(names.index(name) for name in dict.fromkeys(self.wrt)) or None

    def _known(self, given: tuple[str, ...], names: tuple[str, ...], option: str) -> None:
        unknown = [name for name in given if name not in names]
        if unknown:
            raise UnusableInput(
                f"Expected arguments of `{self.target.name}` in {option}, which are "
                f"{', '.join(names)}, got {', '.join(unknown)}."
            )

    def _public(self, module: ModuleType) -> tuple[str, ...]:
        """The digests of the public arrays."""
        given = []
        for name in self.public:
            if len(name) == 64 and not set(name) - set("0123456789abcdef"):
                given.append(name)
            elif hasattr(module, name):
                given.append(getattr(module, name))
            else:
                raise UnusableInput(
                    f"Expected an array of the module or a digest in --public, got {name!r}. A "
                    "finding FAD005 shows the digest."
                )
        try:
            return digests_of(given)
        except ValueError as error:
            raise UnusableInput(f"{error} The names are {', '.join(self.public)}.") from error


@dataclasses.dataclass(frozen=True)
class Answer:
    """The reports about one program.

    Attributes:
      subject: What was checked; None if it can get no certificate.
      results: Mode to report and program.
      cohort: Numbers of clients of the certificate, if not those that follow from the reports.
      written: The report about a DrJAX or SPMD program as it is written.
    """

    subject: PrivateProgram | Program | Computation | None
    results: Mapping[str, tuple[Report, Program | None]]
    cohort: CohortRange | None = None
    written: Report | None = None

    @property
    def reports(self) -> dict[str, Report]:
        """The reports by mode."""
        first = {} if self.written is None else {AS_WRITTEN: self.written}
        return first | {mode: report for mode, (report, _) in self.results.items()}

    @property
    def rejected(self) -> bool:
        """Whether a report rejects."""
        return any(report.kind == "reject" for report in self.reports.values())

    @property
    def obligations(self) -> tuple[Obligation, ...]:
        """The obligations of all reports."""
        return obligations(self.reports.values())

    @property
    def programs(self) -> dict[str, Program]:
        """The checked programs by mode."""
        return {mode: p for mode, (_, p) in self.results.items() if p is not None}

    def certificate(self) -> Certificate:
        """The certificate of an answer without rejection.

        Raises:
          UnusableInput: Programs of this style get none.
        """
        if self.subject is None:
            raise UnusableInput(
                "Expected a native, DrJAX or SPMD program for a certificate, got a stacked one, "
                "which is only checked. Write it as a computation."
            )
        issued = issue(self.subject, dict(self.results))
        return issued if self.cohort is None else dataclasses.replace(issued, cohort=self.cohort)


def _floating_at_server(args: list) -> tuple[int, ...]:
    """Positions of the server's arguments whose leaves are all floating point."""
    found = []
    for position, tree in enumerate(args):
        leaves = jax.tree.leaves(tree)
        floating = all(jax.numpy.issubdtype(a.spec.dtype, jax.numpy.floating) for a in leaves)
        if leaves and floating and all(a.placement == "server" for a in leaves):
            found.append(position)
    return tuple(found)
