"""Placement: which pod should run each shard, given what each shard costs.

Shards move only when they must (a pod is lost, leaves or joins), or when that evens out measured load: the
best gain first, the room of the target counted down with each move.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from starling.core.ids import PodName, ShardId

from starling_operator.plan.values import Move

WORTH: Final = 0.05
"""A move must lower the larger of both pods' loads by this share of the mean at least."""
IDLE: Final = 0.05
"""Below this load of the most loaded pod, in busy seconds a second, nothing is worth moving."""
BASE: Final = 0.05
"""Weight of a shard beside its load, as a share of the mean load of a shard: so that counts matter too."""


@dataclass(frozen=True, slots=True)
class Weights:
    """What each shard costs; without measurements every shard costs the same."""

    of: Mapping[ShardId, float]

    @classmethod
    def measured(cls, shards: int, busy: Mapping[ShardId, float] | None) -> Weights:
        """Return weights from busy seconds; shards that were not measured count as the mean of the others."""
        every = [ShardId(n) for n in range(shards)]
        if not busy or sum(busy.values()) <= 0:
            return cls(dict.fromkeys(every, 1.0))
        mean = sum(busy.values()) / len(busy)
        return cls({shard: busy.get(shard, mean) + BASE * mean for shard in every})

    def total(self, shards: Collection[ShardId]) -> float:
        return sum(self.of[shard] for shard in shards)


def place(
    shards: int,
    before: Mapping[ShardId, PodName],
    usable: Sequence[PodName],
    joined: Collection[PodName],
    weights: Weights,
) -> tuple[dict[ShardId, PodName], tuple[Move, ...]]:
    """Return the map with every shard on a usable pod, and what had to move for it; empty without pods.

    Shards of pods that are not usable go to the least loaded; pods that joined take their share from the most
    loaded. No shard moves between two pods that stay.
    """
    if not usable:
        return {}, ()
    placed = {shard: pod for shard, pod in before.items() if pod in usable and shard < shards}
    loads = dict.fromkeys(usable, 0.0)
    counts = dict.fromkeys(usable, 0)
    for shard, pod in placed.items():
        loads[pod] += weights.of[shard]
        counts[pod] += 1
    moves: list[Move] = []
    homeless = [ShardId(n) for n in range(shards) if ShardId(n) not in placed]
    for shard in sorted(homeless, key=lambda s: (-weights.of[s], s)):
        target = min(usable, key=lambda pod: (loads[pod], counts[pod], usable.index(pod)))
        source = before.get(shard)
        moves.append(Move(shard, source, target, "lost" if source else "first"))
        placed[shard] = target
        loads[target] += weights.of[shard]
        counts[target] += 1
    for pod in sorted(joined):
        if pod in usable and not counts[pod]:
            moves += _share(pod, placed, loads, counts, weights)
    return placed, tuple(moves)


def _share(
    pod: PodName,
    placed: dict[ShardId, PodName],
    loads: dict[PodName, float],
    counts: dict[PodName, int],
    weights: Weights,
) -> list[Move]:
    """Give a pod that has nothing its share: from the most loaded, never beyond the mean."""
    moves: list[Move] = []
    mean = sum(loads.values()) / len(loads)
    fair = max(1, len(placed) // len(loads))
    while counts[pod] < fair:
        donors = sorted((p for p in loads if p != pod and counts[p] > 1), key=lambda p: (-loads[p], p))
        found = next(
            (
                (donor, shard)
                for donor in donors
                for shard in sorted((s for s, p in placed.items() if p == donor), key=lambda s: (-weights.of[s], s))
                if loads[pod] + weights.of[shard] <= max(mean, weights.of[shard] if not counts[pod] else 0.0)
                and loads[donor] > loads[pod] + weights.of[shard] * 0.5
            ),
            None,
        )
        if found is None:
            return moves
        donor, shard = found
        moves.append(Move(shard, donor, pod, "joined"))
        _shift(shard, donor, pod, placed, loads, weights)
        counts[donor] -= 1
        counts[pod] += 1
    return moves


def _shift(
    shard: ShardId,
    source: PodName,
    target: PodName,
    placed: dict[ShardId, PodName],
    loads: dict[PodName, float],
    weights: Weights,
) -> None:
    placed[shard] = target
    loads[source] -= weights.of[shard]
    loads[target] += weights.of[shard]


def imbalance(
    before: Mapping[ShardId, PodName], usable: Sequence[PodName], busy: Mapping[ShardId, float]
) -> float | None:
    """Return the load of the most loaded pod over the mean; None when nothing is to be compared."""
    loads = dict.fromkeys(usable, 0.0)
    for shard, pod in before.items():
        if pod in loads:
            loads[pod] += busy.get(shard, 0.0)
    total = sum(loads.values())
    return max(loads.values()) * len(loads) / total if total > 0 else None


def rebalance(
    before: Mapping[ShardId, PodName],
    usable: Sequence[PodName],
    busy: Mapping[ShardId, float],
    *,
    tolerance: float,
    most: int,
    resting: Collection[ShardId],
) -> tuple[Move, ...]:
    """Return the moves of one round, the best gain first; none while the most loaded pod is within tolerance.

    resting: shards that have moved lately. Shards without a measurement do not move.
    """
    placed = {shard: pod for shard, pod in before.items() if pod in usable}
    loads = dict.fromkeys(usable, 0.0)
    for shard, pod in placed.items():
        loads[pod] += busy.get(shard, 0.0)
    if len(usable) < 2 or sum(loads.values()) <= 0:
        return ()
    mean = sum(loads.values()) / len(loads)
    moves: list[Move] = []
    moved: set[ShardId] = set(resting)
    weights = Weights(busy)
    while len(moves) < most:
        heavy = max(loads, key=lambda pod: (loads[pod], pod))
        if loads[heavy] <= max((1 + tolerance) * mean, IDLE):
            break
        best = _best(heavy, placed, loads, busy, moved, WORTH * mean)
        if best is None:
            break
        moves.append(best)
        moved.add(best.shard)
        _shift(best.shard, heavy, best.target, placed, loads, weights)
    return tuple(moves)


def _best(
    heavy: PodName,
    placed: Mapping[ShardId, PodName],
    loads: Mapping[PodName, float],
    busy: Mapping[ShardId, float],
    resting: Collection[ShardId],
    worth: float,
) -> Move | None:
    """The move away from the most loaded pod that lowers the larger of both loads most."""
    best: Move | None = None
    for shard in sorted(s for s, pod in placed.items() if pod == heavy and s not in resting and busy.get(s, 0.0) > 0):
        for target in sorted(pod for pod in loads if pod != heavy):
            after = max(loads[heavy] - busy[shard], loads[target] + busy[shard])
            gain = loads[heavy] - after
            if gain >= worth and (best is None or gain > best.gain):
                best = Move(shard, heavy, target, "load", gain)
    return best
