"""The learner group of BPO: learner actors that meet over TCP and act as one learner.

Consumes training samples from the loop and deals them to the ranks; produces one policy version per
`optim_step`. Ray Train drives annealing only; here the group is a handful of actors so that rollout
workers and learner can be placed apart.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayTaskError

from actors.learner.learner import Learner, LearnerSpec, StepInfo
from actors.ray_errors import ACTOR_DIED, could_not_start
from bimode.errors import LearnerLostError
from bimode.learner.packing import share_prompts, split_evenly, tree_tokens
from bimode.records import TrainingSample
from bimode.rl.loss import LossFn
from bimode.rl.metrics import label_of
from bimode.storage.weights import WINDOW, WeightBucket, machine

SURVIVED_BY_S = 5.0  # until Ray has heard of the death that a survivor's error came of


@dataclass(frozen=True, slots=True)
class ExportPlan:
    """How weights leave a learner: in how many parts, and where they can be read in place
    (`bimode.storage.weights.machine`; empty: nowhere, since they are sharded, of another
    precision or on a GPU, or few enough to be copied).
    """

    num_buckets: int
    shared_on: str


class LearnerRank:
    """One actor of the group: rank 0 listens, then each joins the others and makes a `Learner`."""

    def listen(self, world: int) -> str:
        """Open the group's store on this node; return its ``host:port``."""
        from actors.learner import distributed

        host = ray.util.get_node_ip_address()
        self.store = distributed.listen(host, world)
        return f"{host}:{self.store.port}"

    def start(self, rank: int, world: int, address: str, spec: LearnerSpec) -> None:
        """Joins the group at `address`, where rank 0 listens, and loads the model.

        Blocks until every rank is there. Raises ConfigError as `actors.devices.on_gpu`.
        """
        from actors.devices import on_gpu
        from actors.learner import distributed

        on_gpu("cluster.learner_gpus")
        distributed.join(
            rank, world, self.store if rank == 0 else distributed.connect(address, world)
        )
        self.learner = Learner(spec)
        num_buckets = len(self.learner.buckets)
        can_lend = (
            rank == 0 and num_buckets > WINDOW and self.learner.share()
        )  # now: later it would need room for two copies
        self._plan = ExportPlan(num_buckets, machine() if can_lend else "")

    def forward_backward(
        self, samples: Sequence[TrainingSample], loss: LossFn, num_tokens: float
    ) -> dict[str, float]:
        """`Learner.forward_backward` on this rank's share, with sums by mode and level."""
        return self.learner.forward_backward(
            samples, loss, num_tokens=num_tokens, labels=list(map(label_of, samples))
        )

    def optim_step(self) -> StepInfo:
        """`Learner.optim_step`."""
        return self.learner.optim_step()

    def export_plan(self) -> ExportPlan:
        """Return how the weights leave the learner."""
        return self._plan

    @ray.method(num_returns=2)
    def export_bucket(self, version: int, index: int, share: bool) -> tuple[int, WeightBucket]:
        """`Learner.export_bucket`, and its checksum, which is there when the bucket is."""
        bucket = self.learner.export_bucket(version, index, share)
        return bucket.checksum, bucket

    def free_address(self) -> str:
        """Return a free ``host:port`` of this node; vLLM's rendezvous takes no socket that is
        open.
        """
        host = ray.util.get_node_ip_address()
        with socket.socket() as probe:
            probe.bind((host, 0))
            return f"{host}:{probe.getsockname()[1]}"

    def open_sender(self, workers: Sequence[Any], sync: str, address: str) -> None:
        """Join the rollout workers' transfer group (`actors.weights.sender`); every rank at
        once.
        """
        from actors.learner import distributed
        from actors.weights.sender import WeightSender

        host, port = address.rsplit(":", 1)
        self.sender = WeightSender(
            self.learner.model,
            workers,
            sync=sync,
            rank=distributed.rank(),
            address=host,
            port=int(port),
        )

    def send(self) -> None:
        """`WeightSender.send`; every rank at once."""
        self.sender.send()

    def save(self, path: Path) -> None:
        """`Learner.save`."""
        self.learner.save(path)

    def restore(self, path: Path) -> None:
        """`Learner.restore`."""
        self.learner.restore(path)

    def save_model(self, path: Path) -> None:
        """`Learner.save_model`."""
        self.learner.save_model(path)


@dataclass(frozen=True, slots=True)
class Export:
    """A bucket of weights on its way out of the learner: a reference to it, and one to the receipt
    of each rank.
    """

    bucket: Any
    receipts: tuple[Any, ...]


class LearnerGroup:
    """`num_workers` ranks behind the verbs of one learner. `actor_options` are ray.remote options
    of a rank.

    The constructor returns while the ranks are still loading; the first verb waits for them.
    """

    def __init__(self, actor_options: dict[str, Any], num_workers: int, spec: LearnerSpec) -> None:
        self.micro_tokens = spec.config.micro_tokens
        remote = ray.remote(LearnerRank)
        self.ranks = [
            (remote.options(**actor_options) if actor_options else remote).remote()
            for _ in range(num_workers)
        ]
        address = self.ranks[0].listen.remote(num_workers)
        self.started = [
            actor.start.remote(rank, num_workers, address, spec)
            for rank, actor in enumerate(self.ranks)
        ]

    def ready(self) -> None:
        """Wait until every rank has loaded; raise the error that stopped it."""
        _get(self.started)

    def update(
        self, samples: Sequence[TrainingSample], loss: LossFn, num_tokens: float
    ) -> dict[str, float]:
        """Add the gradient of `samples`, dealt to the ranks by tokens and prompt by prompt; return
        sums over all of them.

        `num_tokens` is the denominator of the whole batch (`CreditedBatch.denominator`).
        """
        self.ready()
        most = -(
            -sum(tree_tokens([s]) for s in samples) // len(self.ranks)
        )  # no tree may be more than a rank's share
        trees = [
            [samples[i] for i in tree]
            for tree in share_prompts(samples, min(self.micro_tokens, most))
        ]
        shares = split_evenly([tree_tokens(tree) for tree in trees], len(self.ranks))
        parts = _get(
            [
                actor.forward_backward.remote(
                    [s for k in share for s in trees[k]], loss, num_tokens
                )
                for actor, share in zip(self.ranks, shares, strict=True)
            ]
        )
        sums: Counter[str] = Counter()
        for part in parts:
            sums.update(part)
        return dict(sums)

    def optim_step(self) -> StepInfo:
        """Take one optimizer step on every rank. Raises DivergedError before anything moves if the
        step is not finite.
        """
        return _get([actor.optim_step.remote() for actor in self.ranks])[0]

    async def export_plan(self) -> ExportPlan:
        """Return how the weights leave; waits until every rank has loaded."""
        await _answers(self.started)
        [plan] = await _answers([self.ranks[0].export_plan.remote()])
        return plan

    def export(self, version: int, index: int, share: bool = False) -> Export:
        """Put bucket `index` of the weights (if `share`, only its place in memory) into the object
        store; does not wait.
        """
        answers = [
            actor.export_bucket.remote(version, index, share) for actor in self.ranks
        ]  # collective: every rank takes part
        return Export(answers[0][1], tuple(checksum for checksum, _ in answers))

    async def checksum(self, export: Export) -> int:
        """Wait for a bucket and return its checksums. A rank that dies is found here, and not by a
        rollout worker that reads from it.
        """
        return int((await _answers(export.receipts))[0])

    async def open_senders(self, workers: Sequence[Any], sync: str, deadline_s: float) -> None:
        """Connect every rank to the rollout workers, GPU to GPU; `sync` is ``nccl`` or ``ipc``.

        Raises LearnerLostError after `deadline_s`: NCCL waits for ever for a process that is gone.
        """
        await _answers(self.started)
        [address] = await _answers([self.ranks[0].free_address.remote()])
        joined = [actor.open_sender.remote(workers, sync, address) for actor in self.ranks]
        late = f"the ranks and the rollout workers have not connected by {sync}"
        await _answers_within(joined, deadline_s, late)

    async def send(self, version: int, deadline_s: float) -> None:
        """Send the weights to the workers of `open_senders`, which have paused.

        Raises LearnerLostError after `deadline_s`: a collective whose other side is gone or silent
        never ends.
        """
        sent = [actor.send.remote() for actor in self.ranks]
        late = f"the weights of version {version} are not with every worker"
        await _answers_within(sent, deadline_s, late)

    def save(self, path: Path) -> None:
        """Write a checkpoint; every rank its share."""
        _get([actor.save.remote(path) for actor in self.ranks])

    def restore(self, path: Path) -> None:
        """Continue from a checkpoint of as many ranks."""
        self.ready()
        _get([actor.restore.remote(path) for actor in self.ranks])

    def save_model(self, path: Path) -> None:
        """Write a plain Hugging Face directory."""
        self.ready()
        _get([actor.save_model.remote(path) for actor in self.ranks])

    def close(self) -> None:
        """End the ranks."""
        for actor in self.ranks:
            ray.kill(actor)
        self.ranks = []


def _get(refs: Any) -> Any:
    """Call `ray.get`. Raises LearnerLostError if a rank has died; one that could not start raises
    what stopped it.
    """
    try:
        return ray.get(refs)
    except (*ACTOR_DIED, RayTaskError) as error:
        explained = _explained(error, refs if isinstance(refs, list) else [])
        if explained is error:
            raise
        raise explained from error


async def _answers(refs: Sequence[Any]) -> list[Any]:
    """Wait for all of `refs`. Raises as `_get`."""
    try:
        return list(await asyncio.gather(*refs))
    except (*ACTOR_DIED, RayTaskError) as error:
        explained = await asyncio.to_thread(_explained, error, list(refs))
        if explained is error:
            raise
        raise explained from error


async def _answers_within(refs: Sequence[Any], deadline_s: float, late: str) -> None:
    """Awaits as `_answers`. Raises LearnerLostError with the message `late` after `deadline_s`."""
    try:
        async with asyncio.timeout(deadline_s):
            await _answers(refs)
    except TimeoutError:
        raise LearnerLostError(f"{late} after {deadline_s:.0f} s") from None


def _explained(error: Exception, refs: list[Any]) -> Exception:
    """Return the error to raise for `error`, which one of `refs` raised."""
    if isinstance(error, ACTOR_DIED):
        if could_not_start(error):
            return error
        if isinstance(error, RayTaskError):  # of a rank, which lives
            return LearnerLostError(
                "a rollout worker died while a rank of the learner group sent it weights"
            )
        return LearnerLostError("a rank of the learner group died")
    # perhaps of a survivor, whose collective ended with the rank that died
    ended = ray.wait(refs, num_returns=len(refs), timeout=SURVIVED_BY_S)[0] if refs else ()
    for ref in ended:
        try:
            ray.get(ref)
        except ACTOR_DIED:
            return LearnerLostError("a rank of the learner group died")
        except RayTaskError:
            continue
    return error
