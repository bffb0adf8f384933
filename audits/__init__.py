"""audits: a static checker that proves privacy claims, and a verifier of the proofs.

Names are loaded on first use, so `secfad --help` does not import JAX.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from audits import certifying
    from audits.certifying import CertificationError, assert_certified, certify
    from audits.checking.checking import check
    from audits.checking.frontends import Arg
    from audits.checking.verification import verify
    from audits.projections import certify_arrays
    from audits.rules.findings import Report
    from privacy.certificates.statements import sign, verify_signature

__all__ = [
    "Arg",
    "CertificationError",
    "Report",
    "assert_certified",
    "certify",
    "certify_arrays",
    "certifying",
    "check",
    "sign",
    "verify",
    "verify_signature",
]

_HOMES = {
    "Arg": "audits.checking.frontends",
    "CertificationError": "audits.certifying",
    "Report": "audits.rules.findings",
    "assert_certified": "audits.certifying",
    "certify": "audits.certifying",
    "certify_arrays": "audits.projections",
    "check": "audits.checking.checking",
    "sign": "privacy.certificates.statements",
    "verify": "audits.checking.verification",
    "verify_signature": "privacy.certificates.statements",
}


def __getattr__(name: str):
    if name == "certifying":
        return importlib.import_module("audits.certifying")
    if name not in _HOMES:
        raise AttributeError(f"module 'audits' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
