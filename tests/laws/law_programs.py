"""Every federated program of the laws: importing this fills the table."""

import programs_of_constants
import programs_of_one_round
import programs_of_rounds
import programs_transformed
import programs_with_choices
from federated_programs import CASES, CLIENTS, C

__all__ = ["CASES", "CLIENTS", "THEMES", "C"]
THEMES = (
    programs_of_constants,
    programs_of_one_round,
    programs_of_rounds,
    programs_with_choices,
    programs_transformed,
)
