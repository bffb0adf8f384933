"""audits: a static checker that proves privacy claims, and a verifier of the proofs.

Names are loaded on first use, so `secfad --help` does not import JAX.
"""

import importlib
from typing import TYPE_CHECKING

import privacy as privacy  # refuses an operating system that it cannot work on

if TYPE_CHECKING:
    from audits import certifying as certifying
    from audits.certifying import CertificationError as CertificationError
    from audits.certifying import assert_certified as assert_certified
    from audits.certifying import certify as certify
    from audits.checking.checking import check as check
    from audits.checking.frontends import Arg as Arg
    from audits.projections import certify_arrays as certify_arrays
    from audits.proofs.bundles import Bundle as Bundle
    from audits.proofs.verification import verify as verify
    from audits.rules.findings import Report as Report
    from privacy.certificates.statements import sign as sign
    from privacy.certificates.statements import verify_signature as verify_signature

_HOMES = {
    "Arg": "audits.checking.frontends",
    "Bundle": "audits.proofs.bundles",
    "CertificationError": "audits.certifying",
    "Report": "audits.rules.findings",
    "assert_certified": "audits.certifying",
    "certify": "audits.certifying",
    "certify_arrays": "audits.projections",
    "check": "audits.checking.checking",
    "sign": "privacy.certificates.statements",
    "verify": "audits.proofs.verification",
    "verify_signature": "privacy.certificates.statements",
}

# For types, the aliases above say the same.
__all__ = ["certifying", *_HOMES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str):
    if name == "certifying":
        return importlib.import_module("audits.certifying")
    if name not in _HOMES:
        raise AttributeError(f"module 'audits' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
