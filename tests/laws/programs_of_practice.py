"""Every program of practice: importing this fills the table."""

import programs_of_data
import programs_of_layers
import programs_of_libraries
import programs_of_matrices
import programs_of_models
import programs_of_networks
import programs_of_solvers
import programs_of_solving
import programs_of_time
from practice import MODES, PROGRAMS

__all__ = ["MODES", "PROGRAMS", "THEMES"]
THEMES = (
    programs_of_models,
    programs_of_networks,
    programs_of_matrices,
    programs_of_solving,
    programs_of_solvers,
    programs_of_time,
    programs_of_data,
    programs_of_libraries,
    programs_of_layers,
)
