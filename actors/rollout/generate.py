"""Generate completions for a fixed list of requests: evaluation, and the reference rewards of a
run.

Requests are split evenly over the workers. Workers answer every SLICE_S; one that dies or times out
is replaced and its requests are retried with the same seeds, so the results are identical. Results
keep the order of the requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from actors.rollout.fleet import RolloutFleet, WorkerFailedError, WorkerHandle
from bimode.errors import StaleWeightsError, WorkerLostError
from bimode.records import GenerationRequest, GenerationResult

SLICE_S = 5.0

# takes the error of a worker that failed; returns its successor, which holds the same weights
OnWorkerLost = Callable[[WorkerHandle, WorkerFailedError], Awaitable[WorkerHandle]]


async def fail(worker: WorkerHandle, error: WorkerFailedError) -> WorkerHandle:
    """Raise the error of a lost worker: the `OnWorkerLost` of a fleet that does not replace
    workers.
    """
    raise error


async def generate(
    fleet: RolloutFleet,
    requests: Sequence[GenerationRequest],
    version: int,
    on_lost: OnWorkerLost = fail,
) -> list[GenerationResult]:
    """Return results in the order of `requests`. Raises StaleWeightsError if a token was drawn
    under another version than `version`, WorkerLostError if the successor of a lost worker is lost
    too, and what `on_lost` raises.
    """
    workers = fleet.workers[: len(requests)]
    shares = [requests[i :: len(workers)] for i in range(len(workers))]
    jobs = [_answer(w, share, on_lost) for w, share in zip(workers, shares, strict=True)]
    results: list[GenerationResult | None] = [None] * len(requests)
    for i, answered in enumerate(await asyncio.gather(*jobs)):
        results[i :: len(workers)] = answered
    ordered = [result for result in results if result is not None]
    completions = [completion for result in ordered for completion in result.completions]
    stale = {v for completion in completions for v in completion.versions_T} - {version}
    if stale:
        raise StaleWeightsError(
            f"asked for policy version {version}, got tokens of {sorted(stale)}"
        )
    return ordered


async def _answer(
    worker: WorkerHandle, requests: Sequence[GenerationRequest], on_lost: OnWorkerLost
) -> list[GenerationResult]:
    try:
        return await _attempt(worker, requests)
    except WorkerFailedError as error:
        successor = await on_lost(worker, error)
    try:
        return await _attempt(successor, requests)
    except WorkerFailedError as error:
        raise WorkerLostError(
            f"{error}, like the one before it that was asked the same {len(requests)} requests"
        ) from error


async def _attempt(
    worker: WorkerHandle, requests: Sequence[GenerationRequest]
) -> list[GenerationResult]:
    await worker.ready()
    await worker.begin(0, requests)
    while not (done := await worker.advance(SLICE_S)):
        pass
    return done[0]
