"""Recovery: secrets from disclosed shares, and the masks they remove from the sum.

The server needs the self-mask seed of every survivor and the mask key of every client that
dropped after sharing. Owners whose shares come from the same points are interpolated together; where
a secret does not match its commitment (for a mask key: its public half), the shares of all those
owners are decoded together, around wrong ones, whose senders are named.

>>> Rebuilt({}, (3,)).culprits
(3,)

Sources: Bonawitz et al. (2017), figure 4, unmasking; docs/secagg-spec.md, "Integrity of shares".
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from secagg.crypto import field as gf
from secagg.crypto import masks, primitives, shamir
from secagg.errors import BelowThreshold, IntegrityError
from secagg.protocol import keys
from secagg.protocol.graph import Graph
from secagg.protocol.messages import Advertisement, Disclosure

PHASE = "unmask"
Check = Callable[[int, bytes], bool]


@dataclass(frozen=True)
class Rebuilt:
    """Secrets by owner, and the clients whose shares were wrong."""

    secrets: Mapping[int, bytes] = field(repr=False)
    culprits: tuple[int, ...] = ()


def seed_check(setup: bytes, announced: Mapping[int, Advertisement]) -> Check:
    """Whether a rebuilt self-mask seed is the committed one."""
    return lambda owner, secret: (
        keys.seed_commitment(setup, owner, secret) == announced[owner].commitment
    )


def key_check(announced: Mapping[int, Advertisement]) -> Check:
    """Whether a rebuilt mask key has the announced public half."""
    return lambda owner, secret: primitives.AgreementKey(secret).public == announced[owner].mask_key


def gather(
    disclosures: Mapping[int, Disclosure], graph: Graph, which: str
) -> dict[int, dict[int, bytes]]:
    """Share bytes by owner and share point, from the disclosures by sender."""
    found: dict[int, dict[int, bytes]] = defaultdict(dict)
    for sender, disclosure in disclosures.items():
        for owner, share in getattr(disclosure, which).items():
            found[owner][graph.places(owner)[sender] + 1] = share
    return found


def rebuild(
    shares: Mapping[int, Mapping[int, bytes]],
    owners: Collection[int],
    *,
    threshold: int,
    secret_bytes: int,
    graph: Graph,
    check: Check,
) -> Rebuilt:
    """Rebuilds one secret per owner and names the senders of wrong shares.

    Guarantees:
      Every returned secret is the committed one.

    Raises:
      BelowThreshold: An owner has fewer than `threshold` shares.
      IntegrityError: No sharing that agrees with an owner's commitment was found.
    """
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for owner in owners:
        points = tuple(sorted(shares.get(owner, ())))
        if len(points) < threshold:
            raise BelowThreshold(
                PHASE,
                f"expected {threshold} shares of a secret of client {owner}, got {len(points)}.",
            )
        groups[points].append(owner)
    secrets, culprits = {}, set()
    for points, group in groups.items():
        joined = b"".join(shares[owner][point] for owner in group for point in points)
        table = np.frombuffer(joined, dtype="<u4").astype(np.int64)
        table = table.reshape(len(group), len(points), -1)

        def sound(row: int, values: np.ndarray, group=group) -> bool:
            secret = gf.to_bytes(values[None], secret_bytes)[0]
            return secret is not None and check(group[row], secret)

        found = shamir.recover_all(points, table, threshold, sound)
        for owner, recovered in zip(group, found, strict=True):
            secrets[owner] = _secret(owner, recovered.secret, secret_bytes)
            culprits |= {graph.holders(owner)[point - 1] for point in recovered.wrong}
    return Rebuilt(secrets, tuple(sorted(culprits)))


def _secret(owner: int, values: np.ndarray | None, secret_bytes: int) -> bytes:
    secret = None if values is None else gf.to_bytes(values[None], secret_bytes)[0]
    if secret is None:
        raise IntegrityError(
            PHASE,
            f"expected shares that rebuild the committed secret of client {owner}, got none "
            "that do. Either its owner shared inconsistently or too many holders lied.",
            (owner,),
        )
    return secret


def dropped_terms(
    dropped: Mapping[int, bytes],
    alive: Collection[int],
    *,
    graph: Graph,
    announced: Mapping[int, Advertisement],
    context: bytes,
) -> list[tuple[bytes, int]]:
    """Mask terms that remove the pair masks which survivors share with dropped clients."""
    terms = []
    for owner, secret in dropped.items():
        private = primitives.AgreementKey(secret)
        for other in graph.neighbours(owner):
            if other in alive:
                agreed = private.agree(announced[other].mask_key)
                key = masks.pair_key(agreed, context, owner, other)
                terms.append((key, -masks.pair_sign(other, owner)))
    return terms


def seed_terms(seeds: Mapping[int, bytes], context: bytes) -> list[tuple[bytes, int]]:
    """Mask terms that remove the survivors' self masks."""
    return [(masks.self_key(seed, context, owner), -1) for owner, seed in seeds.items()]
