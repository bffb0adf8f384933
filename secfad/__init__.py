"""secfad: federated automatic differentiation in JAX, over broadcast and sum only."""

from secfad import cohorts as cohorts
from secfad.clipping import clip as clip
from secfad.computations import Computation as Computation
from secfad.computations import computation as computation
from secfad.derivatives.modes import grad as grad
from secfad.derivatives.modes import jacobian as jacobian
from secfad.derivatives.modes import jvp as jvp
from secfad.derivatives.modes import value_and_grad as value_and_grad
from secfad.derivatives.modes import vjp as vjp
from secfad.derivatives.planning import CostModel as CostModel
from secfad.derivatives.reports import Plan as Plan
from secfad.derivatives.reports import plan as plan
from secfad.engines.local import execute as execute
from secfad.engines.simulation import simulate as simulate
from secfad.placements import CLIENTS as CLIENTS
from secfad.placements import SERVER as SERVER
from secfad.placements import Placement as Placement
from secfad.primitives import broadcast as broadcast
from secfad.primitives import mean as mean
from secfad.primitives import sum as sum
from secfad.programs.programs import Program as Program
from secfad.programs.tracing import trace as trace
