"""secfad: federated automatic differentiation in JAX, over broadcast and sum only."""

from secfad.clipping import clip as clip
from secfad.computations import Computation as Computation
from secfad.computations import computation as computation
from secfad.placements import CLIENTS as CLIENTS
from secfad.placements import SERVER as SERVER
from secfad.placements import Placement as Placement
from secfad.primitives import broadcast as broadcast
from secfad.primitives import mean as mean
from secfad.primitives import sum as sum
