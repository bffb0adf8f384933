"""The catalogue of rules, grouped by the question that they answer.

>>> RULES["FAD102"].name
'implicit-broadcast'
"""

from audits.static.catalogue.bounds import BOUNDS
from audits.static.catalogue.communication import COMMUNICATION
from audits.static.catalogue.derivatives import DERIVATIVES
from audits.static.catalogue.exposure import EXPOSURE
from audits.static.catalogue.programs import PROGRAMS
from audits.static.rules import table

RULES = table(PROGRAMS, COMMUNICATION, DERIVATIVES, BOUNDS, EXPOSURE)
