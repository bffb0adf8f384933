"""What a bundle says, in plain sentences, each under the question that it answers.

An auditor reads them as text or as a page (`pages`). Communication, bounds and derivative are what the
verifier has confirmed. Noise, purpose, further obligations and who accepted them are *stated*: every run
compares noise and purpose with its mechanism, and a signature vouches for the rest.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from audits.proofs.bundles import Bundle
from privacy.accounting.pricing import epsilon
from privacy.certificates.certificates import Certificate
from privacy.errors import PrivacyError

MODES = ("primal", "forward", "reverse", "mixed")
WORDS = {
    "primal": "the computation itself",
    "forward": "its derivative in forward mode",
    "reverse": "its derivative in reverse mode",
    "mixed": "its derivative in mixed mode",
    "factored": "its derivative in factored mode",
    "blockwise": "its derivative in blockwise mode",
}
NOT_SAID = (
    "that clients tell the truth about their data",
    "that the code at the clients is the certified program: a run compares digests",
    "how many clients took part, or that the cohort was large enough for you",
    "what a receiver concludes from the sums together with other knowledge",
)


@dataclasses.dataclass(frozen=True)
class Setting:
    """A schedule of runs, for which an epsilon is stated.

    Attributes:
      steps: How often the program runs, each time on its own cohort.
      sampling_rate: Poisson rate of the cohorts, which stay secret; 1 for everyone. Another number has
        no epsilon, and the answer says why.
      delta: Of epsilon.
    """

    steps: int = 1
    sampling_rate: float = 1.0
    delta: float = 1e-5


@dataclasses.dataclass(frozen=True)
class Answer:
    """A question and what the bundle says to it."""

    question: str
    verdict: str
    sentences: tuple[str, ...]


def answers(certificate: Certificate, setting: Setting | None = None) -> list[Answer]:
    """Communication, bounds, derivative, reveals and obligations, in this order."""
    return [
        _communication(certificate),
        _bounds(certificate, setting),
        _derivative(certificate),
        _reveals(certificate),
        _to_accept(certificate),
    ]


def _communication(certificate: Certificate) -> Answer:
    """How clients and server exchange values."""
    sentences = []
    for mode, messages in certificate.schedule.items():
        sums = sum(m.count for m in messages if m.kind == "sum")
        broadcasts = sum(m.count for m in messages if m.kind == "broadcast")
        rounds = max((m.phase for m in messages if m.kind == "sum"), default=0)
        up = sum(m.bytes * m.count for m in messages if m.kind == "sum")
        down = sum(m.bytes * m.count for m in messages if m.kind == "broadcast")
        sentences.append(
            f"{WORDS.get(mode, mode).capitalize()}: {_count(rounds, 'round')}, "
            f"{_count(broadcasts, 'broadcast')} ({_count(down, 'byte')} to each client), "
            f"{_count(sums, 'sum')} ({_count(up, 'byte')} from each client)."
        )
    sentences.append(_again(certificate))
    verdict = "Clients' values reach the server through sums over clients, and in no other way."
    return Answer("Communication", verdict, tuple(sentences))


def _again(certificate: Certificate) -> str:
    """Whether the same clients are needed again."""
    kept = certificate.clients.get("residual_bytes")
    if not certificate.clients.get("readdress"):
        return "No contact needs the clients of an earlier one."
    keeping = f", which keep up to {kept:,} bytes between" if kept else ""
    return f"A later contact needs the same clients as an earlier one{keeping}."


def _bounds(certificate: Certificate, setting: Setting | None) -> Answer:
    """What one client can move each sum by."""
    if certificate.profile != "secagg+dp":
        return Answer("Bounds", "Exact sums: this is not a privacy claim.",
                      ("No contribution is bounded and no noise is added.",))  # fmt: skip
    record = certificate.mechanism
    verdict = "One client moves each sum by at most the stated norm, whatever its data are."
    if not record:
        return Answer("Bounds", verdict, ("No noise is stated, so this is not a privacy claim.",))
    joint = " together, in units of their norms" if record.get("joint") else ""
    sentences = [
        f"Sums of a round are clipped{joint} (clip norms: {_numbers(record.get('clip_norm'))}).",
        f"Stated, and compared by every run: {_ADDED[str(record['noise'])]} "
        f"{str(record.get('mechanism')).capitalize()} noise of noise multiplier "
        f"{_numbers(record.get('noise_multiplier'))}, for {certificate.purpose}.",
    ]
    sentences += _epsilons(certificate, setting or Setting())
    return Answer("Bounds", verdict, tuple(sentences))


_ADDED = {"central": "the server adds", "distributed": "the clients add"}


def _epsilons(certificate: Certificate, setting: Setting) -> list[str]:
    record, multiplier = certificate.mechanism, certificate.mechanism.get("noise_multiplier")
    usual = record.get("mechanism") == "gaussian" and record.get("noise") == "central"
    if not usual or not record.get("joint") or not isinstance(multiplier, int | float):
        return ["Ask `secfad ledger plan` for its epsilon."]
    releases = max(
        (m.phase for ms in certificate.schedule.values() for m in ms if m.kind == "sum"), default=0
    )
    event: dict[str, Any] = {"type": "gaussian", "noise_multiplier": multiplier}
    event = {"type": "self_composed", "event": event, "count": releases}
    if setting.sampling_rate != 1:
        event = {"type": "poisson", "q": setting.sampling_rate, "event": event}
    try:
        price = epsilon(
            {"type": "self_composed", "event": event, "count": setting.steps}, setting.delta
        )
    except PrivacyError as error:
        return [f"No epsilon: {error}"]
    cohort = (
        "everyone" if setting.sampling_rate == 1 else f"{setting.sampling_rate:g} of all clients"
    )
    return [
        f"{_count(setting.steps, 'run')} with {cohort} and {_count(releases, 'release')} each: epsilon "
        f"{price:.3g} at delta {setting.delta:g}, adding or removing one client."
    ]


def _derivative(certificate: Certificate) -> Answer:
    """Which modes and arguments are covered."""
    covered = [WORDS.get(m, m) for m in certificate.digests]
    others = [WORDS[m] for m in MODES if m not in certificate.digests]
    arguments = "; ".join(
        f"{a['position']}: {a['dtype']}{list(a['shape'])} at the {a['placement']}"
        for a in certificate.arguments
    )
    sentences = [f"Arguments: {arguments}."]
    if others:
        sentences.append(f"Not covered: {_joined(others)}.")
    words = _joined(covered)
    return Answer("Derivative", f"Covered: {words}.", tuple(sentences))


def _joined(modes: list[str]) -> str:
    """`its derivative in forward mode, in reverse mode`."""
    first, *others = modes
    short = [w.removeprefix("its derivative ") if "derivative" in first else w for w in others]
    for k in range(1, len(short)):
        short[k] = short[k].removeprefix("its derivative ")
    return ", ".join([first, *short])


def _reveals(certificate: Certificate) -> Answer:
    """Sums in which single clients can stand out."""
    named = [o.text for o in certificate.obligations if o.rule == "FAD602"]
    if certificate.mechanism:
        verdict = "Noise hides single clients in every sum, as far as its epsilon says."
    elif named:
        verdict = "Single clients can stand out in some sums."
    else:
        verdict = (
            "No contribution is known to be placed at an index of its client. Exact sums may still show "
            "single clients, for example in small cohorts."
        )
    return Answer("Reveals", verdict, tuple(f"{text[:1].upper()}{text[1:]}." for text in named))


def _to_accept(certificate: Certificate) -> Answer:
    """Obligations, and how to meet them."""
    if not certificate.obligations:
        return Answer("To accept", "Nothing.", ())
    return Answer(
        "To accept",
        f"A run must acknowledge {_count(len(certificate.obligations), 'condition')}.",
        (
            *(f"{o.rule}: {o.text}." for o in certificate.obligations),
            *(
                f"{a.rule} was accepted by {a.by} on {a.date}: {a.reason}"
                for a in certificate.acceptances
            ),
        ),
    )


def _count(number: float, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def _numbers(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {number:g}" for name, number in value.items())
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def answers_text(certificate: Certificate, setting: Setting | None = None) -> str:
    """The answers, each with its verdict first."""
    parts = []
    for answer in answers(certificate, setting):
        sentences = [f"  {sentence}" for sentence in answer.sentences]
        parts.append("\n".join([f"{answer.question}: {answer.verdict}", *sentences]))
    return "\n\n".join(parts)


def explain_text(bundle: Bundle, setting: Setting | None = None) -> str:
    """The whole statement for a terminal."""
    certificate = bundle.certificate
    lines = [
        f"Certificate of `{certificate.subject}`, issued {bundle.issued or 'on an unstated day'}"
    ]
    lines += ["", answers_text(certificate, setting)]
    lines += ["", "Assumed:", *(f"  {text}" for text in certificate.assumptions)]
    lines += ["", "Not said:", *(f"  {text}" for text in NOT_SAID)]
    lines += ["", f"Signature: {signature_of(bundle)}"]
    return "\n".join(lines)


def signature_of(bundle: Bundle) -> str:
    """Who vouches for the bundle."""
    if bundle.signed is None:
        return "none. The proof stands by itself; who issued it is not known."
    keys = ", ".join(s.keyid[:16] for s in bundle.signed.signatures)
    if bundle.trusted:
        return f"verified, by the trusted key {keys}."
    return f"by key {keys}, not checked. Pass the public key of the signer."
