"""The seeded generator: sound rows of the built-in families and word problems, and among them the
planted ones.

No two sound rows show the same: a picture's content and a text are used once in all splits, so that
what is planted is all that there is to find.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import numpy as np

from benchmarks.defect_data import pictures, variants
from benchmarks.defect_data.damage import DAMAGE, PICTURED, REASONED, STEP
from benchmarks.defect_data.kinds import KINDS, Kind, counts
from benchmarks.defect_data.problems import edited, problem
from benchmarks.defect_data.questions import REWORDED, pick
from benchmarks.defect_data.record import Record, from_problem, from_sample
from benchmarks.defect_data.words import Part
from bimode.config.curate import SourceConfig
from data_curation.demo import Family, canvas, family_of

IMAGE_FAMILIES = ("digits", "charts", "arithmetic")
LEVEL_WEIGHTS = (0.1, 0.2, 0.7)
PICTURED_SHARE, SUMS_SHARE = 0.62, 0.10  # the rest are word problems
TRAIN_PARQUET, TRAIN_JSONL, RL_PARQUET = (0, 1, 2, 3, 4), (5, 6, 7), (8, 9)  # shards
SHARDS = (*TRAIN_PARQUET, *TRAIN_JSONL, *RL_PARQUET)
WHERE = {
    "any": SHARDS,
    "train": TRAIN_PARQUET + TRAIN_JSONL,
    "jsonl": TRAIN_JSONL,
    "int": TRAIN_PARQUET + RL_PARQUET,
}
EVAL_SHARDS = (10, 11)
EVAL_SHARE, EVAL_LEAST = 0.075, 60  # evaluation items: over the rows, and at least

Test = Callable[[Record], bool]
Make = Callable[[Record, np.random.Generator], Record]


def is_picture(record: Record) -> bool:
    return record.image is not None


def is_story(record: Record) -> bool:
    return record.problem is not None


def anything(record: Record) -> bool:
    return True


# How the rows of a kind are made of another sound row of the training part; the row it is made of
# stays.
OF_ANOTHER: dict[str, tuple[Test, Make]] = {
    "copy_same_file": (anything, lambda r, rng: r),
    "copy_other_file": (anything, lambda r, rng: r),
    "copy_png": (
        is_picture,
        lambda r, rng: _pictured(r, pictures.as_other_png(r.image or b"", rng)),
    ),
    "copy_jpeg": (is_picture, lambda r, rng: _pictured(r, pictures.as_jpeg(r.image or b""))),
    "copy_rescaled": (is_picture, lambda r, rng: _pictured(r, pictures.rescaled(r.image or b""))),
    "copy_brighter": (is_picture, lambda r, rng: _pictured(r, pictures.brighter(r.image or b""))),
    "copy_edited_text": (is_story, lambda r, rng: replace(r, question=edited(r.question, rng))),
    "element_changed": (is_picture, variants.element_changed),
    "elements_swapped": (
        lambda r: is_picture(r) and variants.can_swap(r),
        variants.elements_swapped,
    ),
    "other_handwriting": (
        lambda r: is_picture(r) and r.task != "charts",
        variants.other_handwriting,
    ),
    "other_question": (is_picture, variants.other_question),
    "other_numbers": (
        is_story,
        lambda r, rng: variants.other_numbers(r, rng, len(r.problem.numbers) if r.problem else 0),
    ),
    "one_other_number": (is_story, lambda r, rng: variants.other_numbers(r, rng, 1)),
}
# The same, of an evaluation item.
OF_EVALUATION: dict[str, tuple[Test, Make]] = {
    "leak_exact": (anything, lambda r, rng: r),
    "leak_png": (
        is_picture,
        lambda r, rng: _pictured(r, pictures.as_other_png(r.image or b"", rng)),
    ),
    "leak_image": (
        is_picture,
        lambda r, rng: _pictured(r, pictures.reencoded(r.image or b"", rng)),
    ),
    "leak_reworded": (
        is_picture,
        lambda r, rng: replace(
            r, image=pictures.reencoded(r.image or b"", rng), question=pick(rng, REWORDED[r.task])
        ),
    ),
    "leak_edited_text": (is_story, lambda r, rng: replace(r, question=edited(r.question, rng))),
    "leak_other_numbers": (
        is_story,
        lambda r, rng: variants.other_numbers(r, rng, len(r.problem.numbers) if r.problem else 0),
    ),
    "eval_element_changed": (is_picture, variants.element_changed),
}
NEW_PICTURE = (
    "element_changed",
    "elements_swapped",
    "eval_element_changed",
)  # it must not be one that another row shows


def _pictured(record: Record, image: bytes) -> Record:
    return replace(record, image=image)


class Source:
    """Sound records that differ from all others it has given."""

    def __init__(self, seed: int) -> None:
        self._rng = canvas.rng_of("defects", "source", seed)
        self._seed, self._drawn, self._keys = seed, 0, 0
        self._seen: set[tuple[str, str]] = set()

    def draw(self, part: Part, fits: Test = anything) -> Record:
        """The next record of `part` that fits."""
        while True:
            made = self._candidate(part)
            if fits(made) and self.is_new(made):
                return replace(made, key=self.key())

    def key(self) -> str:
        """The next key."""
        self._keys += 1
        return f"row-{self._keys:06d}"

    def is_new(self, record: Record) -> bool:
        """Whether nothing shown so far is the same; from now on it is shown."""
        content = (record.task, record.shown if record.image else record.question)
        new = content not in self._seen
        self._seen.add(content)
        return new

    def _candidate(self, part: Part) -> Record:
        self._drawn += 1
        at = self._rng.random()
        if at >= PICTURED_SHARE + SUMS_SHARE:
            return from_problem(problem(self._rng, part), "")
        name = IMAGE_FAMILIES[self._drawn % 3] if at < PICTURED_SHARE else "sums"
        return from_sample(family(name)(self._drawn, part, self._seed, LEVEL_WEIGHTS), "")


@cache
def family(name: str) -> Family:
    """The generator of a built-in family."""
    return family_of(SourceConfig.model_validate({"family": name}))


class Planter:
    """Makes all records of a run; equal arguments give equal records."""

    def __init__(self, rows: int, seed: int) -> None:
        self.counts = counts(rows)
        self.source = Source(seed)
        self.rng = canvas.rng_of("defects", "plant", seed)
        items = max(EVAL_LEAST, round(rows * EVAL_SHARE))
        self.evaluation = [
            self._placed(self.source.draw("eval"), EVAL_SHARDS) for _ in range(items)
        ]
        self.sound = [
            self._placed(self.source.draw("train"), SHARDS) for _ in range(self.counts["sound"])
        ]
        self._originals, self._leaking = self._shuffled(self.sound), self._shuffled(self.evaluation)

    def records(self) -> list[Record]:
        """Every record, evaluation included, in the order of shards and shuffled within each."""
        planted = [record for kind in KINDS for record in self._plant(kind, self.counts[kind.name])]
        everything = [*self.evaluation, *self.sound, *planted]
        return sorted(self._shuffled(everything), key=lambda record: record.shard)

    def _shuffled(self, records: Sequence[Record]) -> list[Record]:
        return [records[i] for i in self.rng.permutation(len(records))]

    def _plant(self, kind: Kind, count: int) -> list[Record]:
        if kind.name in OF_EVALUATION:
            return self._leaks(kind, count)
        if kind.name in OF_ANOTHER:
            return self._of_another(kind, count)
        if kind.name in PICTURED:
            return [self._damaged(kind, PICTURED[kind.name], is_picture) for _ in range(count)]
        if kind.name in REASONED:
            return [self._damaged(kind, REASONED[kind.name], _has_steps) for _ in range(count)]
        return [self._damaged(kind, DAMAGE[kind.name], anything) for _ in range(count)]

    def _damaged(self, kind: Kind, damage: Make, fits: Test) -> Record:
        record = self._placed(self.source.draw("train", fits), WHERE[kind.where])
        return replace(damage(record, self.rng), kind=kind.name)

    def _of_another(self, kind: Kind, count: int) -> list[Record]:
        """A copy comes alone or with a second one; what must stay is made once of each row, and so
        is an edited text, whose two edits would be less alike than either is like the text.
        """
        fits, make = OF_ANOTHER[kind.name]
        made: list[Record] = []
        while len(made) < count:
            original = self._take(self._originals, fits)
            times = 1 if kind.stage in ("", "dedup, text") or self.rng.random() < 0.7 else 2
            for _ in range(min(times, count - len(made))):
                record = self._varied(kind, original, make)
                shard = (
                    original.shard
                    if kind.name == "copy_same_file"
                    else self._other_shard(original.shard)
                )
                made.append(replace(record, shard=shard))
        return made

    def _leaks(self, kind: Kind, count: int) -> list[Record]:
        fits, make = OF_EVALUATION[kind.name]
        leaks = (self._varied(kind, self._take(self._leaking, fits), make) for _ in range(count))
        return [self._placed(leak, WHERE[kind.where]) for leak in leaks]

    def _varied(self, kind: Kind, original: Record, make: Make) -> Record:
        while True:
            record = make(original, self.rng)
            if kind.name not in NEW_PICTURE or self.source.is_new(record):
                return replace(record, key=self.source.key(), kind=kind.name, same=original.key)
            original = self._take(
                self._originals if original.split == "train" else self._leaking, OF[kind.name][0]
            )

    def _take(self, pool: list[Record], fits: Test) -> Record:
        """The next of `pool` that fits; nobody else gets it."""
        at = next(i for i in range(len(pool) - 1, -1, -1) if fits(pool[i]))
        return pool.pop(at)

    def _placed(self, record: Record, shards: Sequence[int]) -> Record:
        return replace(record, shard=int(self.rng.choice(shards)))

    def _other_shard(self, shard: int) -> int:
        return int(self.rng.choice([other for other in SHARDS if other != shard]))


OF = OF_ANOTHER | OF_EVALUATION


def _has_steps(record: Record) -> bool:
    return len(STEP.findall(record.trace)) >= 2
