"""What each weight transport can do, and what it needs of the placement.

The transports themselves are in `actors/weights`; a recipe is checked against this table before
anything starts.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TransportLimits:
    """What one transport declares.

    `joins`: workers may join, leave and be replaced while the run lives. `staleness`: weights may
    land while completions are under way. `checksums`: a worker proves what it holds, bucket by
    bucket. `gpus`: each rollout worker and each learner rank must have one, or must have none;
    None where both work. `colocated`: one learner rank and one worker share one GPU.
    """

    joins: bool
    staleness: bool
    checksums: bool
    gpus: bool | None
    colocated: bool = False


LIMITS = {
    "object_store": TransportLimits(joins=True, staleness=True, checksums=True, gpus=None),
    "shared_memory": TransportLimits(joins=True, staleness=True, checksums=True, gpus=False),
    "nccl": TransportLimits(joins=False, staleness=True, checksums=False, gpus=True),
    "ipc": TransportLimits(joins=False, staleness=True, checksums=False, gpus=True, colocated=True),
}


def resolve(sync: str, *, gpus: bool, joins: bool) -> str:
    """The transport that `bpo.sync` means: `auto` is nccl between whole GPUs (`gpus`), unless
    workers are to come and go; elsewhere it stays `auto`, which decides at each update whether
    memory is shared. NCCL takes one rank a device, so GPUs that are shared do not count.
    """
    if sync != "auto" or not gpus:
        return sync
    return "object_store" if joins else "nccl"


def can_join(sync: str) -> bool:
    """Whether workers may join, leave and be replaced while the run lives."""
    return sync == "auto" or LIMITS[sync].joins
