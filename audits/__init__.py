"""audits: is the claim true? A static checker that proves it, and attacks that test it.

Names are loaded when they are first used, so that the help of the command does not import JAX.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from audits import certifying
    from audits.certifying import CertificationError, assert_certified, certify
    from audits.projections import certify_arrays
    from audits.static.checking import check
    from audits.static.findings import Report
    from audits.static.frontends import Arg
    from audits.static.verification import verify
    from privacy.statements import sign, verify_signature

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
    "Arg": "audits.static.frontends",
    "CertificationError": "audits.certifying",
    "Report": "audits.static.findings",
    "assert_certified": "audits.certifying",
    "certify": "audits.certifying",
    "certify_arrays": "audits.projections",
    "check": "audits.static.checking",
    "sign": "privacy.statements",
    "verify": "audits.static.verification",
    "verify_signature": "privacy.statements",
}


def __getattr__(name: str):
    if name == "certifying":
        return importlib.import_module("audits.certifying")
    if name not in _HOMES:
        raise AttributeError(f"module 'audits' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
