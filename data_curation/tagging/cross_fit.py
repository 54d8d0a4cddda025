r"""Cross-fitting: no model tags a question that it was trained on, since it would say how well it
remembers, not how well it does.

    bimode run R --out half-0 --set 'curate.cross_fit_fold=[0, 2]'
    bimode run R --out half-1 --set 'curate.cross_fit_fold=[1, 2]'
    bimode curate R --out whole --set \
        'curate.rollouts.models=["half-0/anneal/model", "half-1/anneal/model"]'

The first two make models that have each seen one half of the questions.

What a model in a run directory was trained on is in that directory, and in that of its base, where
the base lies in a run too; of any other model nothing is known. Questions are the same if their
words and pixels are (`fingerprints.content_key`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bimode.errors import ConfigError
from bimode.storage.dataset import question_of
from bimode.storage.run_dir import Provenance, provenance_of, read_json
from data_curation.dedup.fingerprints import content_key
from data_curation.store import Store
from data_curation.tagging.tagging import ALIVE_TRAIN

KEY = "curate.rollouts.models"
NO_PROVENANCE = (
    "nobody knows what it may tag: copy it to elsewhere if that is all, and keep more with"
    " curate.keep_versions"
)


def leave_out_folds(store: Store, fold: tuple[int, int]) -> None:
    """Rejects the train questions of other folds than `fold` (which, of how many)."""
    mine, n = fold
    rows = store.table(["file", "row", "content_key"], ALIVE_TRAIN, "file, row").to_pylist()
    rejected = []
    for row in rows:
        other = fold_of(row["content_key"], n)
        if other != mine:
            rejected.append(row | {"reason": "other_fold", "detail": f"{other} of {n}"})
    store.update(["reason", "detail"], rejected)


def fold_of(key: str, n: int) -> int:
    """Return which of `n` folds a question belongs to. The fold depends on `content_key` only, so
    it is the same in every curation.
    """
    return int(key[:15], 16) % n


def training_files(model: Path) -> tuple[Path, ...]:
    """The files of rows that a model in a run directory and its base were trained on; none for a
    model in no run.

    Raises ConfigError if the data that it was trained on is no longer there.
    """
    made = provenance_of(model)
    if made is None:
        return ()
    if made.stage == "anneal":
        return (*_of_base(made), *_read(made, "train"))
    annealing = _annealing(made)
    before = _of_base(made)
    if annealing:
        before = (*_of_base(annealing), *_read(annealing, "train"))
    return (*before, *_read(made, "rl"))


def _of_base(made: Provenance) -> tuple[Path, ...]:
    """The training files of the model that a run's first stage began with, if that is still the
    same model in the same place.
    """
    base = (read_json(made.run / "manifest.json") or {}).get("base", {}).get("path")
    if not base:
        return ()
    before = provenance_of(made.run / base)  # a base of the run's own is named relative to it
    if before and before.manifest["outputs"]["model"] == made.manifest["inputs"]["model"]:
        return training_files(made.run / base)
    return ()


def _annealing(bpo: Provenance) -> Provenance | None:
    """The annealing that BPO started from; None if it started from the run's base. Raises
    ConfigError if it is gone.
    """
    folders = [bpo.run / "anneal", *sorted((bpo.run / "replaced").glob("anneal-*"))]
    found = [made for folder in folders if (made := provenance_of(folder / "model"))]
    for made in found:
        if made.manifest["outputs"]["model"] == bpo.manifest["inputs"]["model"]:
            return made
    if any(folder.is_dir() for folder in folders):
        raise ConfigError(
            KEY,
            bpo.run / "bpo" / "model",
            f"was made from an annealing that is no longer in {bpo.run}; {NO_PROVENANCE}",
        )
    return None


def questions(files: Iterable[Path]) -> frozenset[str]:
    """`content_key` of every question in files of published rows."""
    keys = set()
    for file in files:
        for row in pq.read_table(file, columns=["prompt", "image_sha256"]).to_pylist():
            keys.add(content_key(question_of(row), row["image_sha256"]))
    return frozenset(keys)


def _read(made: Provenance, split: str) -> tuple[Path, ...]:
    """The files of `split` in the version of the data that a stage read."""
    curate = made.run / "curate"
    for version in (*sorted((curate / "versions").glob("[0-9]*")), curate):
        manifest = read_json(version / "manifest.json")
        if manifest and manifest["outputs"]["data"] == made.manifest["inputs"]["data"]:
            return tuple(sorted((version / "data").glob(f"{split}-*.parquet")))
    raise ConfigError(
        KEY,
        made.run / made.stage / "model",
        f"was trained on data that is no longer in {curate}; {NO_PROVENANCE}",
    )


def assign_to_models(
    chosen: pa.Table, known: Sequence[Collection[str]]
) -> tuple[list[pa.Table], pa.Table]:
    """The rows of `chosen` (with `content_key`) for each model, by what it is `known` to be trained
    on, and those for none.

    A question goes to the first model that was not trained on it, so that a model more at the end
    changes no tag.
    """
    left, assigned = chosen, []
    for seen in known:
        keys = left["content_key"].to_pylist()
        unseen = pa.array([key not in seen for key in keys], pa.bool_())
        assigned.append(left.filter(unseen))
        left = left.filter(pc.invert(unseen))
    return assigned, left
