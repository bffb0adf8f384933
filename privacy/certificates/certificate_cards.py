"""The card of a certificate: what it states, in one place, without its evidence."""

from typing import TYPE_CHECKING, Any

from privacy.cards import Card

if TYPE_CHECKING:
    from privacy.certificates.certificates import Certificate, Message

PROFILES = {
    "secagg": "communication only: broadcasts to all clients and sums over all clients",
    "secagg+dp": "communication, and a bound on what one client adds to every sum",
}


def certificate_card(certificate: "Certificate", /) -> Card:
    """Profile, modes, conditions and the table of messages with their bounds."""
    facts = [f"profile {certificate.profile} ({PROFILES[certificate.profile]})"]
    facts += [f"{mode}: digest {digest}" for mode, digest in sorted(certificate.digests.items())]
    facts.append(f"cohort: {certificate.cohort}")
    if certificate.mechanism:
        facts.append(f"mechanism for {certificate.purpose}: {dict(certificate.mechanism)}")
    facts += [f"on condition {o.rule}: {o.text}" for o in certificate.obligations]
    facts += [
        f"accepted {a.rule} by {a.by} on {a.date}: {a.reason}" for a in certificate.acceptances
    ]
    facts += [f"assumes {assumption}" for assumption in certificate.assumptions]
    rows = [
        _row(mode, message, _bounds(certificate, mode).get(message.name, ""))
        for mode, messages in certificate.schedule.items()
        for message in messages
    ]
    return Card(f"certificate of {certificate.subject}", facts, rows)


def _row(mode: str, message: "Message", bound: str) -> dict[str, Any]:
    return {
        "mode": mode,
        "message": message.kind,
        "name": message.name,
        "value": f"{message.dtype}{list(message.shape)}",
        "bytes": message.bytes,
        "times": message.count,
        "norm": bound if message.kind == "sum" else "",
    }


def _bounds(certificate: "Certificate", mode: str) -> dict[str, str]:
    """Name of a sum to the largest norm of a contribution."""
    return {bound.sum: str(bound.norm) for bound in certificate.bounds.get(mode, ())}
