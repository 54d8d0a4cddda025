"""The shards of a curation: what one task reads or draws, and under which name its candidates are
kept.

A shard is known by its content and by the settings that decide its candidates, not by its place or
its date: a file that was moved, or read for another recipe with the same settings, costs nothing; a
new file costs itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

from bimode.config.curate import CurateConfig, SourceConfig
from bimode.errors import ConfigError, config_errors
from bimode.records import Sample
from bimode.storage.run_dir import digest_code, digest_json
from data_curation.demo import family_of
from data_curation.sources.layouts import read_samples, source_name
from data_curation.sources.readers import FilePart
from data_curation.sources.refusal import Refusal

ROWS_PER_DRAW = 256
FILE_ROWS = 2000  # about, in a part of a file (`readers.split_file`)
ONE_LEVEL = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
Weights = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class DrawnShard:
    """Questions `start` to `stop` of a family, e.g. ``DrawnShard(source, "train", "base", 0, 256,
    0, (0.5, 0.25, 0.25))``.
    """

    source: SourceConfig
    split: str
    source_split: str
    start: int
    stop: int
    seed: int
    weights: Weights

    @property
    def settings(self) -> object:
        """What decides the samples."""
        source = [self.source.draws, self.source.tasks]
        return [
            source,
            self.split,
            self.source_split,
            self.start,
            self.stop,
            self.seed,
            self.weights,
        ]

    @property
    def size(self) -> int:
        """How many questions there are."""
        return self.stop - self.start

    def samples(self) -> Iterator[Sample | Refusal]:
        """Evaluation takes the three levels in turn, so that thirds are exact."""
        draw = family_of(self.source)
        for index in range(self.start, self.stop):
            yield draw(
                index,
                self.source_split,
                self.seed,
                ONE_LEVEL[index % 3] if self.split == "eval" else self.weights,
            )


@dataclass(frozen=True, slots=True)
class FileShard:
    """A part of a source file; `content` is the digest of the file."""

    source: SourceConfig
    part: FilePart
    content: str

    @property
    def split(self) -> str:
        return self.source.split

    @property
    def settings(self) -> object:
        """What decides the samples; the file's name is in every reference."""
        read = self.source.model_dump(
            mode="json", exclude={"path", "family", "generator", "tasks", "weight"}
        )
        return [
            read,
            source_name(self.source),
            self.content,
            self.part.file.name,
            self.part.start,
            self.part.stop,
        ]

    def samples(self) -> Iterator[Sample | Refusal]:
        """The records of the part, as the source's layout reads them; what is refused is the
        source's too.
        """
        name, license = source_name(self.source), self.source.license
        for sample in read_samples(self.part, self.source):
            yield (
                replace(sample, source=name, license=license)
                if isinstance(sample, Refusal)
                else sample
            )

    @property
    def size(self) -> int:
        """About how many questions there are."""
        return FILE_ROWS


Shard = DrawnShard | FileShard


@cache
def code_digest() -> str:
    """Of the code that makes candidates: another version of it makes them anew."""
    return digest_code("bimode", "data_curation")


def shard_key(shard: Shard, config: CurateConfig, model_key: str = "") -> str:
    """The name under which a shard's candidates are kept; `model_key` is that of the model whose
    prompts they become.
    """
    taught, hashed = bool(config.traces.model), config.dedup.image_radius > 0
    filters = config.filter.model_dump(mode="json")
    asked = model_key if shard.split != "decontaminate" else ""  # whose rows become no prompts
    code = [code_digest(), shard.source.plugins]
    return digest_json([shard.settings, filters, config.tags, taught, hashed, asked, *code])


def plan_draws(config: CurateConfig, seed: int) -> list[DrawnShard]:
    """How many questions each family gives to each split, by weight; the largest remainders take
    what is left over.

    Raises ConfigError for a family that is named twice (its questions would be the same) or a task
    without a trace.
    """
    sources = [source for source in config.sources if source.draws]
    names = [name for source in sources for name in source.tasks or (source.draws,)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(
            "curate.sources", ", ".join(twice), "named twice; give one entry the sum of the weights"
        )
    for at, source in enumerate(config.sources):
        with config_errors(prefix=f"curate.sources.{at}"):
            _ = family_of(source) if source.draws else None
    total = sum(source.weight for source in sources)
    shards = []
    for split, count in (
        (("train", config.train), ("rl", config.rl), ("eval", config.eval)) if sources else ()
    ):
        exact = [count * source.weight / total for source in sources]
        counts = [int(share) for share in exact]
        by_remainder = sorted(range(len(exact)), key=lambda i: (counts[i] - exact[i], i))
        for i in by_remainder[: count - sum(counts)]:
            counts[i] += 1
        own = config.source_split or split if split == "train" else split
        shards += [
            DrawnShard(
                source, split, own, at, min(at + ROWS_PER_DRAW, n), seed, config.level_weights
            )
            for source, n in zip(sources, counts, strict=True)
            for at in range(0, n, ROWS_PER_DRAW)
        ]
    return shards
