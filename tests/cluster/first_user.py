"""Two runs of one user and a Ray session, held until stdin ends. Run as a program by
`test_two_users.py`.

python tests/cluster/first_user.py FOLDER BASE PROMPT
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from bimode.config.recipe import Recipe
from bimode.rl.ledger import Ledger, State
from bimode.storage.versions import exclusive
from cluster.session import connect, log_folder, prepare_process
from pipelines.harness import base_model, describe_run, open_run


class Holder:
    """An actor that was given a prompt."""

    def __init__(self, prompt: str) -> None:
        print(f"holds {len(prompt)} characters", flush=True)
        self.prompt = prompt

    def ready(self) -> int:
        """The process that holds it."""
        return os.getpid()


def write_run(run: Path, recipe: Recipe, prompt: str) -> None:
    """What stages leave: a manifest, weights, a ledger, rollouts."""
    open_run(run)
    with exclusive(run):
        describe_run(recipe, run)
        base_model(recipe, run)
        Ledger(run / "bpo" / "ledger").move([0], State.PENDING, id=prompt)
        pq.write_table(pa.table({"question": [prompt]}), run / "bpo" / "rollouts.parquet")


def main(folder: Path, base: str, prompt: str) -> None:
    """Writes one run under umask 077 and one under 022, under which Ray starts too."""
    recipe = Recipe.of({"name": "t", "model": {"base": base}, "cluster": {"object_store_mb": 100}})
    prepare_process(recipe.cluster)
    for name, mask in (("closed", 0o077), ("open", 0o022)):
        os.umask(mask)
        write_run(folder / name, recipe, prompt)
    with connect(recipe.cluster):
        import ray

        stored = ray.put(prompt * 100_000)  # in shared memory
        holder = ray.remote(Holder).remote(prompt)
        print(
            json.dumps({"actor": ray.get(holder.ready.remote()), "logs": str(log_folder())}),
            flush=True,
        )
        sys.stdin.read()
        del stored


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
