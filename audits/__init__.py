"""audits: is the claim true? A static checker that proves it, and attacks that test it."""

from audits.certifying import CertificationError as CertificationError
from audits.certifying import assert_certified as assert_certified
from audits.certifying import certify as certify
from audits.static.checking import check as check
from audits.static.findings import Report as Report
from audits.static.frontends import Arg as Arg
