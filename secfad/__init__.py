"""secfad: federated automatic differentiation in JAX, over broadcast and sum only."""

from secfad import cohorts as cohorts
from secfad.clipping import clip as clip
from secfad.computations import Computation as Computation
from secfad.computations import computation as computation
from secfad.engines.local import execute as execute
from secfad.modes import grad as grad
from secfad.modes import jacobian as jacobian
from secfad.modes import jvp as jvp
from secfad.modes import value_and_grad as value_and_grad
from secfad.modes import vjp as vjp
from secfad.placements import CLIENTS as CLIENTS
from secfad.placements import SERVER as SERVER
from secfad.placements import Placement as Placement
from secfad.planning import CostModel as CostModel
from secfad.primitives import broadcast as broadcast
from secfad.primitives import mean as mean
from secfad.primitives import sum as sum
from secfad.programs import Program as Program
from secfad.reports import Plan as Plan
from secfad.reports import plan as plan
from secfad.simulation import simulate as simulate
from secfad.tracing import trace as trace
