"""What `ray.get` raises for an actor that is gone: dead, ended by the node's memory monitor, or
with its node and its answers.
"""

from __future__ import annotations

from ray.exceptions import ObjectLostError, OutOfMemoryError, RayActorError, RayError

ACTOR_DIED = (RayActorError, OutOfMemoryError, ObjectLostError)


def could_not_start(error: RayError) -> bool:
    """Whether its constructor raised: so would that of a successor."""
    return bool(getattr(error, "actor_init_failed", False))
