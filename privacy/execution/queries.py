"""Queries: the certified private programs that a training algorithm may ask.

An `Algorithm` consists of its state, its update and the computations that it asks.
`Algorithm.queries` privatizes and certifies all of them before the first round. `Query.slot`
returns the slot that a ledger must declare for a query.

Source: docs/architecture.md, "From a program to a private run".
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from privacy.accounting.draws import draw_terms
from privacy.accounting.sizes import require_public_size, size_of
from privacy.accounting.slots import Slot
from privacy.accounting.terms import joint_noise_multiplier
from privacy.certificates.certificates import Certificate
from privacy.checking import expect, expect_function, expect_mapping, expect_names
from privacy.errors import MechanismError
from privacy.execution.aggregation import charged_releases, groups
from privacy.execution.cohorts import Sampling, expect_sampling
from privacy.ledger.planning import Draws
from privacy.mechanisms.mechanisms import Mechanism
from privacy.mechanisms.privatization import PrivateProgram, privatize
from privacy.relations import Relation
from secfad import Computation

_CERTIFY = "Pass audits.certify."


@dataclass(frozen=True)
class Query:
    """A certified private program that a training algorithm may ask.

    Attributes:
      program: The result of `privatize`.
      certificate: The result of `audits.certify`.
      acknowledge: Rule ids of the certificate's obligations that the caller accepts.
      keep: Where clients keep their results: a tree prefix of the result, like `out_axes` of
        `jax.vmap`. It has the name of a client argument for each client result and None for each
        server result. For a result (delta, control) it is `(None, "own")` if the next query reads
        `control` from its client argument `own`.
    """

    program: PrivateProgram
    certificate: Certificate
    acknowledge: tuple[str, ...] = ()
    keep: Any = None

    def __post_init__(self):
        advice = "Call privacy.Query(private_program, audits.certify(private_program))."
        expect(self.program, PrivateProgram, "program", "a private program", advice)
        expect(self.certificate, Certificate, "certificate", "a certificate", advice)
        advice = "Pass rule ids, as ('FAD306',)."
        expect_names(self.acknowledge, "acknowledge", advice)

    @property
    def noise_multiplier(self) -> float:
        """Noise multiplier of the one Gaussian as which all releases of one evaluation are charged."""
        mechanism = self.program.mechanism
        parts = [group for release in self.program.releases for group in groups(release, mechanism)]
        return joint_noise_multiplier([(part.charged_multiplier, 1) for part in parts])

    def slot(self, sampling: Sampling, count: int) -> Slot:
        """The slot that a ledger must declare for `count` evaluations.

        Raises:
          SizeNotPublic: Clients add the noise, and cohorts are Poisson samples.
          MechanismError: The draws are not Poisson Gaussians; only these have slots. See `draws`.
        """
        expect_sampling(sampling)
        self.check_sampling(sampling, None)
        fixed = sampling.kind == "fixed" and sampling.rate < 1
        if fixed or self.program.mechanism.noise_kind == "skellam":
            raise MechanismError(
                "Expected Gaussian noise on Poisson samples or on everyone for a slot, got"
                f" {self.program.mechanism.kind} noise with {sampling}. Plan it with Query.draws on a"
                " filter: accountant=privacy.ledger.planning.filter_for(...)."
            )
        return Slot(self.program.purpose, sampling.rate, self.noise_multiplier, count)

    def draws(self, sampling: Sampling, count: int, relation: str | Relation) -> Draws:
        """`count` evaluations, as a ledger charges them under a relation; for
        `privacy.ledger.planning`.

        Raises:
          SizeNotPublic: Clients add the noise, and the size of a cohort would be a secret.
        """
        expect_sampling(sampling)
        relation, kind, rate = Relation.parse(relation), sampling.kind, sampling.rate
        size = size_of(kind, rate, sampling.population) or round(sampling.expected_size)
        releases = charged_releases(
            self.program.releases,
            self.program.mechanism,
            max(1, size),
            relation.sensitivity_factor,
        )
        terms = draw_terms(releases, relation, kind, rate, population=sampling.population)
        return Draws(self.program.purpose, terms, count)

    def check_sampling(self, sampling: Sampling, relation: Relation | None) -> None:
        """Refuses sampling that the query does not support under a relation, or under any (None).

        Raises:
          SizeNotPublic: Clients add the noise, and the size of a cohort would be a secret.
        """
        if self.program.mechanism.by_clients:
            require_public_size(relation, sampling.kind, sampling.rate, sampling.population)


@dataclass(frozen=True, eq=False)
class Question:
    """A computation that an algorithm asks, before it is made private.

    Attributes:
      computation: Maps server and client arguments to the value that the server learns.
      specs: The shape of each argument at the server or at one client.
      purpose: The purpose whose budget pays.
      keep: Where clients keep their results; see `Query`.
    """

    computation: Computation
    specs: tuple[Any, ...]
    purpose: str
    keep: Any = None


@dataclass(frozen=True, eq=False)
class Algorithm:
    """A training algorithm: the input of `train` in addition to clients, cohorts and a ledger.

    `state` is the server's before the first round, and `client` the initial client state, by client
    argument; it is empty for most algorithms.
    """

    state: Any
    update: Callable[[Any, Any], Any]
    questions: Mapping[str, Question]
    client: Mapping[str, Any] = field(default_factory=dict)

    def client_state(self, population: int) -> dict[str, Any]:
        """The initial client state of `train`: one row of `client` for each client."""

        def repeated(leaf: Any) -> np.ndarray:
            array = np.asarray(leaf)
            return np.repeat(array[None], population, axis=0)

        return jax.tree.map(repeated, dict(self.client))

    def queries(
        self,
        mechanisms: Mapping[str, Mechanism],
        certify: Callable[[PrivateProgram], Certificate],
        *,
        acknowledge: tuple[str, ...] = (),
    ) -> dict[str, Query]:
        """Privatizes and certifies every question; sends and charges nothing.

        Args:
          mechanisms: One mechanism for each question, by name.
          certify: `audits.certify`.
          acknowledge: Obligations to accept, such as FAD306 for reverse mode, which needs the same
            clients again.

        Raises:
          MechanismError: The mechanisms are not those of the questions.
          RunRefused: `certify` or `acknowledge` has another type.
          audits.CertificationError: A program does not pass.
        """
        expect_function(certify, "certify", _CERTIFY)
        expect_names(acknowledge, "acknowledge", "Pass rule ids, as ('FAD306',).")
        advice = f"Give each of {sorted(self.questions)} one, as privacy.Gaussian(...)."
        expected = "a mapping from questions to mechanisms"
        expect_mapping(mechanisms, Mechanism, "mechanisms", expected, advice, MechanismError)
        if set(mechanisms) != set(self.questions):
            raise MechanismError(
                f"Expected one mechanism for each of {sorted(self.questions)}, got {sorted(mechanisms)}."
            )
        made = {}
        for name, question in self.questions.items():
            private = privatize(
                question.computation,
                *question.specs,
                mechanism=mechanisms[name],
                purpose=question.purpose,
            )
            certificate = certify(private)
            expect(certificate, Certificate, "what `certify` returns", "a certificate", _CERTIFY)
            mine = {obligation.rule for obligation in certificate.obligations}
            taken_on = tuple(r for r in acknowledge if r in mine)
            made[name] = Query(private, certificate, taken_on, question.keep)
        return made
