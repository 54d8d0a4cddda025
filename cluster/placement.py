"""Recipe -> how many actors of which needs a stage starts, and whether the cluster can hold them at
the same time.

Ray would wait for ever for a resource that no node has; `check` says so before anything starts,
with the arithmetic.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from bimode.config.recipe import ClusterConfig, Recipe
from bimode.errors import ConfigError
from cluster.environment import CPU_ENV

WAIT_S = 20
PIN = 0.001  # of a custom resource: marks a node without using it up
MOST = 1024  # rollout workers, where they need nothing of a node


@dataclass(frozen=True, slots=True)
class Role:
    """`count` actors of equal needs. Example: ``Role("rollout", count=2, cpus=1.0, gpus=0.0,
    resource="rollout")``.
    """

    name: str
    count: int
    cpus: float
    gpus: float
    resource: str = ""
    hides_gpus: bool = False  # from actors without any, in a run in which others have some

    def options(self) -> dict[str, Any]:
        """Keyword arguments for `Actor.options(...)`."""
        resources = {self.resource: PIN} if self.resource else {}
        options = {"num_cpus": self.cpus, "num_gpus": self.gpus, "resources": resources}
        return options | ({"runtime_env": self.runtime_env} if self.hides_gpus else {})

    @property
    def runtime_env(self) -> dict[str, Any]:
        """Ray's, of one actor: one that asked for no GPU would use its node's first without it."""
        return {"env_vars": CPU_ENV} if self.hides_gpus else {}

    @property
    def needs(self) -> dict[str, float]:
        """Resources of one actor, zeros left out."""
        wanted = {"CPU": self.cpus, "GPU": self.gpus, self.resource: PIN if self.resource else 0.0}
        return {name: amount for name, amount in wanted.items() if amount}


def rollout_role(cluster: ClusterConfig, count: int) -> Role:
    """`count` rollout workers."""
    cpus, gpus, resource = cluster.rollout_cpus, cluster.rollout_gpus, cluster.rollout_resource
    hides_gpus = gpus == 0 and cluster.learner_gpus > 0
    return Role("rollout", count, cpus, gpus, resource, hides_gpus)


def learner_role(cluster: ClusterConfig, count: int) -> Role:
    """`count` ranks of the learner group."""
    cpus, gpus, resource = cluster.learner_cpus, cluster.learner_gpus, cluster.learner_resource
    hides_gpus = gpus == 0 and cluster.rollout_gpus > 0
    return Role("learner", count, cpus, gpus, resource, hides_gpus)


def plan(stage: str, recipe: Recipe) -> tuple[Role, ...]:
    """The roles that are alive together in `stage`; empty where Ray Data alone decides."""
    cluster = recipe.cluster
    if stage == "curate" and recipe.curate.tags:
        curate = recipe.curate  # its models sample one after the other
        return (
            rollout_role(
                cluster,
                max(part.concurrency for part in (curate.rollouts, curate.judge, curate.traces)),
            ),
        )
    if stage == "anneal":
        return (learner_role(cluster, recipe.anneal.learner.workers),)
    if stage == "bpo":
        bpo = recipe.bpo
        return (
            rollout_role(cluster, bpo.rollout_workers),
            learner_role(cluster, bpo.learner.workers),
        )
    if stage == "evaluate":
        return (rollout_role(cluster, recipe.evaluate.workers),)
    return ()


@contextmanager
def reserved(role: Role, on_event: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """Options of actors that sit in a placement group of `role`, as close together as there is room
    (PACK).

    The room stays theirs until the block ends, even if one of them dies: other roles that grow
    meanwhile do not get it. An interrupt ends the run, and its room goes with the job: Ray is not
    asked, which may be what has died. `say` hears every `WAIT_S` that the cluster has none free.
    """
    if not role.needs:
        yield role.options()
        return
    from ray.util.placement_group import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    group = placement_group([role.needs] * role.count, strategy="PACK")
    is_asked = True
    try:
        while not group.wait(WAIT_S):
            on_event(f"waiting until the cluster has {_sum([role])} free")
        yield role.options() | {"scheduling_strategy": PlacementGroupSchedulingStrategy(group)}
    except KeyboardInterrupt:
        is_asked = False
        raise
    finally:
        if is_asked:
            remove_placement_group(group)


def node_resources() -> list[dict[str, float]]:
    """Resources of each live node of the connected cluster."""
    import ray

    return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]


def check(stage: str, roles: Sequence[Role], nodes: Sequence[Mapping[str, float]]) -> None:
    """Raises ConfigError unless all actors of `roles` fit on `nodes` at once (first fit, each actor
    on one node).
    """
    for role in roles:
        if role.resource and not any(node.get(role.resource, 0.0) for node in nodes):
            fix = (
                f'no node offers it; start one with ray start --resources \'{{"{role.resource}":'
                " 1}'"
            )
            raise ConfigError(f"cluster.{role.name}_resource", role.resource, fix)
    if homeless := _first_unplaceable(roles, nodes):
        raise ConfigError(
            f"cluster.{homeless.name}_{'gpus' if homeless.gpus else 'cpus'}",
            _sum(roles),
            _fix(stage, homeless, nodes),
        )


def most_rollouts(recipe: Recipe, nodes: Sequence[Mapping[str, float]]) -> int:
    """How many rollout workers `nodes` have room for beside the learner, at most `MOST`; never
    fewer than BPO starts with.
    """
    cluster, bpo = recipe.cluster, recipe.bpo
    learner, start = learner_role(cluster, bpo.learner.workers), bpo.rollout_workers

    def lacks_room(count: int) -> bool:
        return _first_unplaceable((rollout_role(cluster, count), learner), nodes) is not None

    return start + bisect_left(
        range(start + 1, MOST + 1), True, key=lacks_room
    )  # the run's loop waits for the answer


def _first_unplaceable(roles: Sequence[Role], nodes: Sequence[Mapping[str, float]]) -> Role | None:
    """The first of all actors that finds no node."""
    free = [dict(node) for node in nodes]
    actors = [role for role in roles for _ in range(role.count)]
    for role in sorted(actors, key=lambda role: (role.gpus, role.cpus), reverse=True):
        home = next((node for node in free if _fits(role, node)), None)
        if home is None:
            return role
        for name, amount in role.needs.items():
            home[name] -= amount
    return None


def _fits(role: Role, node: Mapping[str, float]) -> bool:
    return all(node.get(name, 0.0) >= amount - 1e-9 for name, amount in role.needs.items())


def _amounts(needs: Mapping[str, float]) -> str:
    return " and ".join(f"{amount:g} {name}" for name, amount in needs.items()) or "nothing"


def _sum(roles: Sequence[Role]) -> str:
    """E.g. `2 rollout x 1 CPU + 1 learner x 1 CPU = 3 CPU`."""
    totals = {
        name: sum(role.count * role.needs.get(name, 0.0) for role in roles)
        for name in ("CPU", "GPU")
        if any(name in role.needs for role in roles)
    }
    parts = " + ".join(
        f"{role.count} {role.name} x"
        f" {_amounts({k: v for k, v in role.needs.items() if k in ('CPU', 'GPU')})}"
        for role in roles
    )
    return f"{parts} = {_amounts(totals)}"


def _fix(stage: str, role: Role, nodes: Sequence[Mapping[str, float]]) -> str:
    shown = {"CPU", "GPU", *role.needs}
    have = "; ".join(_amounts({k: v for k, v in node.items() if k in shown}) for node in nodes)
    need = f"{stage} has no node left for a {role.name} of {_amounts(role.needs)}"
    return (
        f"{need}; nodes have [{have}]; lower the numbers or add nodes (a run's own Ray has"
        " cluster.num_cpus)"
    )
