"""One SecAgg+ round of Flower, run by Flower's own code, with the processor time of its stages.

Used by `bench_secagg.py --flower`; needs the package flwr (1.13 or newer, below 2).

What runs is `flwr.server.workflow.SecAggPlusWorkflow`, stage by stage, on a driver that hands every
message in memory to `flwr.client.mod.secaggplus_mod` of the client it is for. Timed are

- *share stage*: a client's call of the mod in stage "share keys";
- *masked stage*: a client's call in stage "collect masked vectors", less the training below it;
- *server unmask*: the server's `unmask_stage`, less the time its messages are away.

So everything is in that Flower's client and server do with a message, and nothing of a transport: no
protobuf, no SuperLink, no Ray. Messages are copied outside the timed parts, as a transport would.
The strategy returns at once; averaging is a user's choice there and no part of the protocol. Nothing
in the round is signed. A client weights its vector, here with the greatest weight.
"""

import logging
import random
import time
from types import SimpleNamespace

import numpy as np
from flwr.client.mod import secaggplus_mod
from flwr.common import (
    Code,
    Context,
    FitIns,
    FitRes,
    Message,
    Metadata,
    Parameters,
    RecordSet,
    Status,
    ndarrays_to_parameters,
    parameters_to_ndarrays,
)
from flwr.common import recordset_compat as compat
from flwr.common.record import ConfigsRecord
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage
from flwr.server import LegacyContext
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD
from flwr.server.workflow.constant import Key as WorkflowKey
from flwr.server.workflow.secure_aggregation.secaggplus_workflow import WorkflowState

WEIGHT = 1000  # the workflow's default greatest weight, so that weighting loses no precision
NO_PARAMETERS = Parameters([], "numpy.ndarray")


class Clients:
    """A driver whose clients answer in memory, and the processor time they took."""

    def __init__(self, vector, clients, dropped):
        self.vector, self.dropped = vector, dropped
        self.contexts = [Context(1, i, {}, RecordSet(), {}) for i in range(clients)]
        self.stages = {stage: [] for stage in Stage.all()}
        self.away = 0.0

    def create_message(self, content, message_type, dst_node_id, group_id, ttl=None):
        """A message as Flower's drivers make it."""
        metadata = Metadata(1, "", 0, dst_node_id, "", group_id, ttl or 3600.0, message_type)
        return Message(metadata, content=content)

    def send_and_receive(self, messages, *, timeout=None):
        """The answers of all clients that have not dropped out."""
        start = time.process_time()
        answers = [self._answer(message) for message in messages]
        self.away += time.process_time() - start
        return [answer for answer in answers if answer is not None]

    def _answer(self, message):
        stage = message.content.configs_records[RECORD_KEY_CONFIGS][Key.STAGE]
        client = message.metadata.dst_node_id
        late = stage in (Stage.COLLECT_MASKED_VECTORS, Stage.UNMASK)
        if late and client in self.dropped:
            return None
        message.content = _copied(message.content)
        training = 0.0

        def train(asked, _):
            nonlocal training
            start = time.process_time()
            result = FitRes(Status(Code.OK, ""), ndarrays_to_parameters([self.vector]), WEIGHT, {})
            reply = asked.create_reply(compat.fitres_to_recordset(result, keep_input=False))
            training = time.process_time() - start
            return reply

        start = time.process_time()
        answer = secaggplus_mod(message, self.contexts[client], train)
        self.stages[stage].append(time.process_time() - start - training)
        return answer


def _copied(content):
    """What a client gets of a message: its own records, so that it cannot change another's."""
    configs = {
        name: ConfigsRecord(dict(record), keep_input=True)
        for name, record in content.configs_records.items()
    }
    return RecordSet(dict(content.parameters_records), dict(content.metrics_records), configs)


def _context(clients, released):
    """A server's context whose strategy asks all clients and keeps what is released."""

    def configure_fit(server_round, parameters, client_manager):
        return [(SimpleNamespace(node_id=i), FitIns(NO_PARAMETERS, {})) for i in range(clients)]

    def aggregate_fit(server_round, results, failures):
        released.append(parameters_to_ndarrays(results[0][1].parameters)[0])
        return None, {}

    records = RecordSet(
        {MAIN_PARAMS_RECORD: compat.parameters_to_parametersrecord(NO_PARAMETERS, True)},
        configs_records={MAIN_CONFIGS_RECORD: ConfigsRecord({WorkflowKey.CURRENT_ROUND: 1})},
    )
    return LegacyContext(
        Context(1, 0, {}, records, {}),
        strategy=SimpleNamespace(configure_fit=configure_fit, aggregate_fit=aggregate_fit),
        client_manager=SimpleNamespace(num_available=lambda: clients),
    )


def round_seconds(vector, *, clients, neighbours, threshold, dropped):
    """Least processor seconds of the share and masked stage of a client, and of the unmasking.

    Args:
      vector: What every client sends, between -1 and 1.
      clients: Clients of the round.
      neighbours: Neighbours of each; Flower counts the client itself as one share holder more.
      threshold: Shares that rebuild a secret.
      dropped: Clients, drawn at random, that send keys and shares but no masked vector.
    """
    logging.getLogger("flwr").setLevel(logging.ERROR)
    gone = set(random.Random(0).sample(range(clients), dropped))
    driver, released = Clients(vector, clients, gone), []
    workflow = SecAggPlusWorkflow(neighbours + 1, threshold)
    context, state = _context(clients, released), WorkflowState()
    for stage in (
        workflow.setup_stage,
        workflow.share_keys_stage,
        workflow.collect_masked_vectors_stage,
    ):
        assert stage(driver, context, state)
    start, away = time.process_time(), driver.away
    assert workflow.unmask_stage(driver, context, state)
    unmask = time.process_time() - start - (driver.away - away)
    step = 2 * workflow.clipping_range / workflow.quantization_range
    assert np.abs(released[0] - vector).max() < 2 * step
    return {
        "share stage": min(driver.stages[Stage.SHARE_KEYS]),
        "masked stage": min(driver.stages[Stage.COLLECT_MASKED_VECTORS]),
        "server unmask, 10 % dropped": unmask,
    }
