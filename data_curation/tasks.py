"""A Ray Data job of tasks, each over one small table: what reading and scoring have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pyarrow as pa


def run_tasks(
    blocks: Sequence[pa.Table], work: Callable[[pa.Table], pa.Table], processes: int | None = None
) -> Iterator[pa.Table]:
    """What `work` makes of each of `blocks`, as they are finished; at most `processes` at a time,
    or as many as there are CPUs.

    What it makes has to be small, since nothing holds tasks back while results wait to be taken.
    Needs a connected Ray.
    """
    import ray

    tasks = ray.data.TaskPoolStrategy(size=processes)
    made = ray.data.from_arrow(list(blocks)).map_batches(
        work, batch_format="pyarrow", batch_size=None, compute=tasks
    )
    # Ray Data shares out CPUs that it asks for once a second: till then one process works, and
    # later they wait between tasks.
    made.context.op_resource_reservation_enabled = False
    yield from made.iter_batches(batch_size=None, batch_format="pyarrow")
