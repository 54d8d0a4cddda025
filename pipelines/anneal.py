"""Bi-mode annealing (R-4B, section 2): supervised training on both formats, fed by Ray Data, on Ray Train and DeepSpeed.

    python -m pipelines.anneal pipelines/recipes/tiny.toml --out runs/demo
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bimode.config import Recipe
from bimode.rundir import StageDir, StageResult

if TYPE_CHECKING:
    import pyarrow as pa


def inputs(recipe: Recipe, run: Path) -> dict[str, Path]:
    """The base model and the curated training rows."""
    from pipelines.harness import base_model

    return {"model": base_model(recipe, run), "data": run / "curate" / "data"}


def config(recipe: Recipe) -> Any:
    """What the annealed model depends on."""
    parts = {"anneal": recipe.anneal, "model": recipe.model}
    return {name: part.model_dump(mode="json") for name, part in parts.items()} | {"seed": recipe.seed}


def execute(recipe: Recipe, stage: StageDir, inputs: dict[str, Path]) -> StageResult:
    """Tokenises with Ray Data, trains with Ray Train; goes on from the last checkpoint of an interrupted run."""
    import ray

    from actors.annealer import AnnealJob, fit, follow
    from bimode.dataset import split_files
    from bimode.strategies import formats_of
    from cluster.placement import plan
    from pipelines.progress import track

    anneal, cluster = recipe.anneal, recipe.cluster
    wanted = formats_of(anneal.strategy)
    files = [str(path.absolute()) for path in split_files(inputs["data"], "train")]
    tokenise = Tokenise(inputs["model"].absolute(), wanted, anneal.mask_empty_think)
    columns = ["id", "images", "prompt", "messages", "format"]
    rows = ray.data.read_parquet(files, columns=columns).map_batches(tokenise.__call__, batch_format="pyarrow").materialize()
    stage.path.mkdir(parents=True, exist_ok=True)
    job = AnnealJob(inputs["model"].absolute(), stage.path.absolute(), anneal, recipe.model.dtype, recipe.seed)
    (role,) = plan("anneal", recipe)
    resources = {"CPU": role.cpus} | ({role.resource: 0.001} if role.resource else {})
    over = threading.Event()
    with track("anneal", total=anneal.steps, unit="step") as bar:
        watcher = threading.Thread(target=follow, args=(job.out, bar.advance, over.is_set), daemon=True)
        watcher.start()
        try:
            fit(job, rows, resources=resources, use_gpu=cluster.learner_gpus > 0, storage=stage.path.absolute() / "train")
        finally:
            over.set()
            watcher.join()
    return StageResult(outputs=("model", "metrics.jsonl"), counts={"rows": rows.count(), "steps": anneal.steps})


@dataclass(frozen=True, slots=True)
class Tokenise:
    """Parquet rows of the wanted formats -> prompt ids, response ids, loss mask. Runs in Ray Data tasks."""

    model_dir: Path
    formats: tuple[str, ...]
    mask_empty_think: bool

    def __call__(self, batch: pa.Table) -> pa.Table:
        import pyarrow as pa

        from bimode.codec import Codec
        from bimode.dataset import question_of

        codec = Codec(self.model_dir)
        rows: dict[str, list[Any]] = {name: [] for name in TOKENISED.names}
        for row in batch.to_pylist():
            if row["format"] not in self.formats:
                continue
            pictures = [image["bytes"] for image in row["images"]]
            response = codec.encode_response(row["messages"][-1]["content"])
            rows["id"].append(row["id"])
            rows["format"].append(row["format"])
            rows["prompt_ids"].append(codec.encode_prompt(question_of(row), pictures))
            rows["response_ids"].append(response)
            rows["loss_mask"].append(self._mask(codec.tokens.direct, response))
            rows["pictures"].append(pictures)
        return pa.table(rows, schema=TOKENISED)

    def _mask(self, direct: int, response: tuple[int, ...]) -> list[float]:
        """1 a token; 0 on the empty block ``\\n\\n</think>`` where the recipe masks it (R-4B, App. B)."""
        empty = 2 if self.mask_empty_think and response[0] == direct else 0
        return [0.0] * empty + [1.0] * (len(response) - empty)


def _tokenised() -> pa.Schema:
    import pyarrow as pa

    ids = pa.list_(pa.int32())
    return pa.schema(
        [
            ("id", pa.string()), ("format", pa.string()), ("prompt_ids", ids), ("response_ids", ids),
            ("loss_mask", pa.list_(pa.float32())), ("pictures", pa.list_(pa.binary())),
        ]
    )  # fmt: skip


TOKENISED = _tokenised()


if __name__ == "__main__":
    from pipelines.cli import main

    main("anneal")
