"""The catalogue of rules, grouped by question.

>>> RULES["FAD102"].name
'implicit-broadcast'
"""

from audits.rules.bounds import BOUNDS
from audits.rules.communication import COMMUNICATION
from audits.rules.derivatives import DERIVATIVES
from audits.rules.exposure import EXPOSURE
from audits.rules.programs import PROGRAMS
from audits.rules.rules import table

RULES = table(PROGRAMS, COMMUNICATION, DERIVATIVES, BOUNDS, EXPOSURE)
