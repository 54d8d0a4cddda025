"""Ray Data jobs: tasks over small tables, and pools of actors over batches of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from bimode.storage.dataset import Row


def run_tasks(
    blocks: Sequence[pa.Table], work: Callable[[pa.Table], pa.Table], processes: int | None = None
) -> Iterator[pa.Table]:
    """Yields the result of `work` for each of `blocks`, as they finish; at most `processes` run at
    a time, or as many as there are CPUs.

    Results have to be small, since nothing holds tasks back while results wait. Needs a connected
    Ray.
    """
    import ray

    tasks = ray.data.TaskPoolStrategy(size=processes)
    made = ray.data.from_arrow(list(blocks)).map_batches(
        work, batch_format="pyarrow", batch_size=None, compute=tasks
    )
    # Ray Data reserves CPUs, and asks for them once a second: until then one process works, and
    # later processes wait between tasks.
    made.context.op_resource_reservation_enabled = False
    yield from made.iter_batches(batch_size=None, batch_format="pyarrow")


def run_pool(
    actor: type,
    arguments: tuple[Any, ...],
    batches: Sequence[list[Row]],
    size: int,
    options: Mapping[str, Any],
) -> Iterator[int]:
    """Runs `size` actors with the ray.remote options `options` over `batches`; yields the one
    column that the actor returns for each batch, as they finish. Needs a connected Ray.
    """
    import ray

    done = ray.data.from_arrow([pa.Table.from_pylist(batch) for batch in batches]).map_batches(
        actor,
        fn_constructor_args=arguments,
        compute=ray.data.ActorPoolStrategy(size=size),
        batch_format="pyarrow",
        batch_size=None,
        **options,
    )
    for batch in done.iter_batches(batch_size=None, batch_format="pyarrow"):
        yield from batch.column(0).to_pylist()
