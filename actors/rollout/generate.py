"""Generation by a fleet that no loop drives: each worker answers a share of the requests, and says
all the time that it lives.

Consumes requests; waits for slices of the workers, none of whom may be silent for longer than the
fleet's patience; is unblocked by a slice that ends, a worker that dies and one that is late;
produces results in the order of the requests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import ray

from actors.ray_errors import ACTOR_DIED, could_not_start
from actors.rollout.fleet import RolloutFleet, WorkerHandle
from bimode.errors import StaleWeightsError, WorkerLostError
from bimode.records import GenerationRequest, GenerationResult

SLICE_S = 5.0  # of a share, after which a worker says that it is alive
POLL_S = 1.0

OnWorkerLost = Callable[
    [WorkerHandle, str], WorkerHandle
]  # who is lost and why, to its successor, which holds the same weights


def fail(member: WorkerHandle, why: str) -> WorkerHandle:
    """The `OnWorkerLost` of who has none."""
    raise WorkerLostError(f"{member.name} {why}")


def generate(
    fleet: RolloutFleet, requests: Sequence[GenerationRequest], lost: OnWorkerLost = fail
) -> list[GenerationResult]:
    """Results in the order of `requests`. Raises StaleWeightsError if any was drawn under another
    version than the fleet's.

    The successor of a lost worker is asked the same again: samples are seeded, so they are the
    same. Raises WorkerLostError if that one is lost too, and what `lost` raises.
    """
    shares = {
        member: range(i, len(requests), len(fleet.workers))
        for i, member in enumerate(fleet.workers[: len(requests)])
    }
    by_request: dict[int, GenerationResult] = {}
    successors: set[WorkerHandle] = set()
    for member, share in shares.items():
        member.call("begin", 0, [requests[i] for i in share])
    while shares:
        gone: dict[WorkerHandle, str] = {}
        for member, call, seconds in fleet.poll(POLL_S):
            try:
                answer = ray.get(call.answer)
            except ACTOR_DIED as error:
                if could_not_start(error):
                    raise
                gone[member] = f"died, {seconds:.1f} s into {call.verb}"
                continue
            if call.verb == "advance" and answer:
                by_request |= zip(shares.pop(member), answer[0], strict=True)
            elif not member.calls:  # `lost` may have asked it for more than its share
                member.call("advance", SLICE_S)
        gone |= {
            member: why for member in shares if (why := member.timeout_reason(fleet.timeout_s))
        }
        for member, why in gone.items():
            share = shares.pop(member)
            if member in successors:
                raise WorkerLostError(
                    f"{member.name} {why}, like the one before it that was asked the same"
                    f" {len(share)} requests"
                )
            successors.add(successor := lost(member, why))
            shares[successor] = share
            successor.call("begin", 0, [requests[i] for i in share])
    ordered = [by_request[i] for i in range(len(requests))]
    completions = [completion for result in ordered for completion in result.completions]
    if stale := {v for c in completions for v in c.versions_T} - {fleet.version}:
        raise StaleWeightsError(
            f"asked for policy version {fleet.version}, got tokens of {sorted(stale)}"
        )
    return ordered
