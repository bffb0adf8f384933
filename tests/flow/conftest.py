"""A configuration that runs in seconds, and what is made of it."""

import pytest

TINY = """
name = "tiny"

[data]
population = 6
alpha = 1.0
beta = 1.0
seed = 0
max_examples = 50

[client]
learning_rate = 0.05
batch_size = 10

[server]
learning_rate = 0.5
momentum = 0.5
max_momentum = 0.9
learning_rate_step = 1.0
momentum_step = 0.1

[schedule]
rounds = 3
sampling_rate = 1.0
spare_slots = 8

[privacy]
epsilon = 20.0
delta = 1e-3

[privacy.training]
epsilon = 12.0
noise_multiplier = 4.0
clip_norm = 0.5

[privacy.hypergradient]
epsilon = 12.0
noise_multiplier = 4.0
clip_norm = 0.3

[engine]
fidelity = "protocol"
noise = "central"
baseline = true
"""


@pytest.fixture(scope="session")
def tiny_text() -> str:
    return TINY


@pytest.fixture(scope="session")
def tiny_task():
    from audits.quickstart.configuration import parse
    from audits.quickstart.tasks import make_task

    return make_task(parse(TINY))
