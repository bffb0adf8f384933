"""`Certificate`: the proved claims about a program, bound to exactly that program.

The checker in `audits` issues certificates, and a private run requires one. This module defines the
type: its fields, its JSON form, and the check that a certificate covers the given program, in the
environment in which it was issued, with every obligation acknowledged. A certificate is a record of
public facts. It holds no client data.

A program is bound by its structural digest, which covers the bytes of captured constants. The
environment is bound because another JAX version or numeric flag may change a program's arithmetic.

>>> Certificate.from_json(specimen().to_json()) == specimen()
True

Sources: in-toto attestation framework v1 and SLSA verification summaries, for the shape of a
statement with subjects, a predicate and a result.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Self, get_args, get_origin

from privacy.cards import Shown
from privacy.certificates.acceptances import Acceptance, applying, fault_of
from privacy.certificates.certificate_cards import certificate_card
from privacy.certificates.cohort_ranges import NONE_STATED, CohortRange
from privacy.errors import PrivacyError

SCHEMA = "urn:secfad:certificate"
VERSION = 1
PROFILES = ("secagg", "secagg+dp")


class CertificateError(PrivacyError):
    """Root of the errors of certificates."""


class CertificateMalformed(CertificateError, ValueError):
    """The text is not a certificate of this schema and version."""


class CertificateMismatch(CertificateError):
    """The certificate is about another program, environment or set of obligations.

    Attributes:
      rule: `FAD006` for another program, `FAD010` for another environment, or the id of the
        obligation that was not acknowledged.
    """

    def __init__(self, message: str, *, rule: str):
        super().__init__(message)
        self.rule = rule


@dataclasses.dataclass(frozen=True)
class Message:
    """One leaf of a broadcast or of a sum.

    Attributes:
      kind: "broadcast" or "sum".
      name: Name in the program.
      shape: Shape at one client.
      dtype: Dtype of the leaf.
      bytes: Bytes per client and execution.
      phase: Sums that must have finished; of a sum, including itself.
      count: Executions in one run.
      line: The user's source line.
    """

    kind: str
    name: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    phase: int
    count: int
    line: str = ""


@dataclasses.dataclass(frozen=True)
class Bound:
    """The maximum change of one sum by one client.

    Attributes:
      sum: Name of the sum.
      norm: Largest L2 norm of a contribution; a number, or an expression in server values.
      proof: "clip", "bounded operation", "recognised clip" or "constant".
      group: Sums with the same group share one joint clip; "" if alone.
      unit: The unit of `norm` in the joint clip of the group.
      slack: Factor by which rounding may exceed the norm.
    """

    sum: str
    norm: float | str
    proof: str
    group: str = ""
    unit: float = 1.0
    slack: float = 1.0


@dataclasses.dataclass(frozen=True)
class Obligation:
    """A claim that is proved under a condition (`text`) on the run, which acknowledges its rule id."""

    rule: str
    text: str


@dataclasses.dataclass(frozen=True)
class Certificate(Shown):
    """A statement about one program in one or more modes.

    Attributes:
      subject: Name of the program.
      digests: Mode to structural digest, as lower-case hexadecimal digits.
      profile: "secagg" if only communication was proved, "secagg+dp" if bounds were proved too.
      environment: Versions and flags under which the statement holds.
      arguments: Name, shape, dtype and placement of every argument leaf.
      schedule: Mode to messages, in program order.
      bounds: Mode to bounds of its sums, for profile "secagg+dp".
      mechanism: Clip norms and noise with which the bounds were compared; empty if there are none.
      purpose: Whose budget pays; empty if no mechanism.
      clients: Client state, residual bytes, whether a cohort is needed again.
      cohort: Numbers of clients for which the statement holds.
      obligations: Conditions that a run must acknowledge.
      notes: Further facts.
      assumptions: Conditions that no static proof covers.
      evidence: Mode to the labels by which an independent verifier re-checks the proof.
      acceptances: Who accepted obligations, and why. They replace no acknowledgement of a run. The
        JSON form has this field only if there are any.
    """

    subject: str
    digests: Mapping[str, str]
    profile: str
    environment: Mapping[str, str]
    arguments: tuple[Mapping[str, Any], ...] = ()
    schedule: Mapping[str, tuple[Message, ...]] = dataclasses.field(default_factory=dict)
    bounds: Mapping[str, tuple[Bound, ...]] = dataclasses.field(default_factory=dict)
    mechanism: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    purpose: str = ""
    clients: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    cohort: CohortRange = NONE_STATED
    obligations: tuple[Obligation, ...] = ()
    notes: tuple[str, ...] = ()
    assumptions: tuple[str, ...] = ()
    evidence: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    acceptances: tuple[Acceptance, ...] = ()

    def __post_init__(self) -> None:
        _require(bool(self.digests), "at least one mode with a digest", "none")
        for mode, digest in self.digests.items():
            good = isinstance(digest, str) and len(digest) == 64 and not set(digest) - _HEX
            _require(good, f"a SHA-256 digest for mode {mode!r}", repr(digest))
        _require(self.profile in PROFILES, f"a profile of {PROFILES}", repr(self.profile))
        fault = fault_of(self.acceptances, self.obligations)
        _require(fault is None, str(fault), "another one")
        for name, value in vars(self).items():
            if isinstance(value, Mapping):
                object.__setattr__(self, name, MappingProxyType(dict(value)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Certificate) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash(self.id)

    def with_acceptances(self, given: Iterable[Acceptance]) -> Self:
        """The certificate with those acceptances that are about its obligations, word for word."""
        return dataclasses.replace(self, acceptances=applying(given, self.obligations))

    card = certificate_card

    @property
    def id(self) -> str:
        """SHA-256 of the JSON form, which identifies the certificate in ledgers and transcripts."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def check_binding(
        self,
        *,
        digest: str,
        environment: Mapping[str, str] | None = None,
        acknowledged: Iterable[str] = (),
        profile: str | None = None,
    ) -> str:
        """Refuses a run that the certificate does not cover.

        Args:
          digest: Structural digest of the program that will run.
          environment: Versions and flags of the run; those of this process by default.
          acknowledged: Rule ids of the obligations that the run accepts.
          profile: The profile that the run needs, if any.

        Returns:
          The mode of the certificate that matches.

        Raises:
          CertificateMismatch: Another program (FAD006), another environment (FAD010), a weaker
            profile, an obligation that was not acknowledged, or an acknowledgement without one.
        """
        mode = next((m for m, d in self.digests.items() if d == digest), None)
        if mode is None:
            expected = ", ".join(f"{m}: {d[:16]}…" for m, d in self.digests.items())
            raise CertificateMismatch(
                f"FAD006: program digest {digest[:16]}… does not match the certificate of "
                f"`{self.subject}` ({expected}). Certify the program that will run.",
                rule="FAD006",
            )
        self._check_environment(current_environment() if environment is None else environment)
        if profile is not None and PROFILES.index(profile) > PROFILES.index(self.profile):
            raise CertificateMismatch(
                f"FAD401: expected a certificate of profile {profile!r}, got {self.profile!r}. "
                "Certify the privatized program, so that bounds are proved too.",
                rule="FAD401",
            )
        self._check_obligations(set(acknowledged))
        return mode

    def check_cohort(self, clients: int) -> None:
        """Refuses a cohort size that the certificate does not cover.

        Raises:
          CertificateMismatch: The size is outside the certified range (FAD605).
        """
        fault = self.cohort.fault(clients)
        if fault is not None:
            raise CertificateMismatch(
                f"FAD605: expected {fault} under the certificate of `{self.subject}`, got {clients}. "
                "Certify the program for every number that its sampling may draw.",
                rule="FAD605",
            )

    def _check_environment(self, environment: Mapping[str, str]) -> None:
        for name in sorted(self.environment.keys() | environment.keys()):
            then, now = self.environment.get(name, "absent"), environment.get(name, "absent")
            if then != now:
                raise CertificateMismatch(
                    f"FAD010: {name} was {then} when certified and is {now} now. "
                    "Certify again in the environment of the run.",
                    rule="FAD010",
                )

    def _check_obligations(self, acknowledged: set[str]) -> None:
        for obligation in self.obligations:
            if obligation.rule not in acknowledged:
                raise CertificateMismatch(
                    f"{obligation.rule}: the certificate of `{self.subject}` holds on the condition: "
                    f"{obligation.text}. Meet it and pass acknowledged=({obligation.rule!r},).",
                    rule=obligation.rule,
                )
        unused = acknowledged - {o.rule for o in self.obligations}
        if unused:
            rule = sorted(unused)[0]
            raise CertificateMismatch(
                f"{rule}: expected acknowledgements of obligations of the certificate, got {rule}, "
                "which it does not have. Remove it.",
                rule=rule,
            )

    def to_dict(self) -> dict[str, Any]:
        """The JSON form as plain values."""
        body = {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}
        if not self.acceptances:
            del body["acceptances"]
        return {"schema": SCHEMA, "version": VERSION, **body}

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces, no NaN."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Reads a certificate.

        Raises:
          CertificateMalformed: Not JSON, another schema or version, an unknown, missing or
            ill-typed field.
        """
        found = parsed(text, malformed)
        _require(found.get("schema") == SCHEMA, f"schema {SCHEMA}", repr(found.get("schema")))
        version = found.get("version")
        _require(version == VERSION and type(version) is int, f"version {VERSION}", repr(version))
        body = {k: v for k, v in found.items() if k not in ("schema", "version")}
        body.setdefault("acceptances", [])
        return _typed(cls, body, "certificate")


_HEX = set("0123456789abcdef")


def malformed(
    expected: str,
    got: str,
    *,
    where: str = "a certificate",
    command: str = "secfad certify --certificate FILE",
    error: type[CertificateMalformed] = CertificateMalformed,
) -> CertificateMalformed:
    """The error for a text of another form, and the command that makes the right one."""
    return error(f"Expected {expected} in {where}, got {got}. Issue it again with {command}.")


def parsed(
    text: str | bytes, refused: Callable[[str, str], CertificateMalformed]
) -> dict[str, Any]:
    """The JSON object of an untrusted text; `refused` makes the error for another one."""
    try:
        found = json.loads(text)
    except (TypeError, ValueError, UnicodeDecodeError, RecursionError) as error:
        raise refused("a JSON object", f"text that does not parse ({error})") from error
    if not isinstance(found, dict):
        raise refused("a JSON object", type(found).__name__)
    return found


def _require(good: bool, expected: str, got: str) -> None:
    if not good:
        raise malformed(expected, got)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    return value


def _typed(kind: Any, value: Any, what: str) -> Any:
    """Rebuilds a value of a declared type and checks every type, because the text is untrusted."""
    if kind is Any:
        return value
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        types = {f.name: f.type for f in dataclasses.fields(kind)}
        good = isinstance(value, dict) and set(value) == set(types)
        _require(good, f"a {kind.__name__} with {sorted(types)} as `{what}`", repr(value)[:80])
        return kind(**{name: _typed(types[name], value[name], name) for name in types})
    origin, inner = get_origin(kind), get_args(kind)
    if origin is tuple:
        _require(isinstance(value, list), f"a list as `{what}`", type(value).__name__)
        return tuple(_typed(inner[0], item, what) for item in value)
    if origin is Mapping:
        _require(isinstance(value, dict), f"an object as `{what}`", type(value).__name__)
        return {name: _typed(inner[1], item, what) for name, item in value.items()}
    allowed = int | kind if kind in (float, float | str) else kind
    good = isinstance(value, allowed) and not isinstance(value, bool)
    _require(good, f"{getattr(kind, '__name__', kind)} as `{what}`", repr(value)[:40])
    return value


def current_environment() -> dict[str, str]:
    """Versions and numeric flags of this process, as certificates bind them."""
    import jax

    try:
        package = importlib.metadata.version("secfad")
    except importlib.metadata.PackageNotFoundError:
        package = "source"
    return {
        "jax": jax.__version__,
        "jaxlib": importlib.metadata.version("jaxlib"),
        "secfad": package,
        "enable_x64": str(jax.config.jax_enable_x64),  # type: ignore[attr-defined]
        "matmul_precision": str(jax.config.jax_default_matmul_precision),  # type: ignore[attr-defined]
        "prng_impl": str(jax.config.jax_default_prng_impl),  # type: ignore[attr-defined]
        "threefry_partitionable": str(jax.config.jax_threefry_partitionable),  # type: ignore[attr-defined]
        "xla_flags": _numeric_flags(os.environ.get("XLA_FLAGS", "")),
    }


_HARMLESS = ("--xla_force_host_platform_device_count", "--xla_dump_")  # change no number


def _numeric_flags(flags: str) -> str:
    """Flags of the compiler that may change results, in one order."""
    return " ".join(sorted(f for f in flags.split() if not f.startswith(_HARMLESS)))


def specimen() -> Certificate:
    """A small certificate for documentation and tests."""
    return Certificate(
        subject="specimen",
        digests={"primal": "0" * 64},
        profile="secagg+dp",
        environment={"jax": "0.10.2"},
        schedule={"primal": (Message("sum", "delta", (4,), "float32", 16, 1, 1, "model.py:7"),)},
        bounds={"primal": (Bound("delta", 1.0, "clip"),)},
        cohort=CohortRange(2, None, "no axis of clients"),
        obligations=(Obligation("FAD306", "a later phase needs the same clients again"),),
    )
