"""The `[curate]` section of the recipe: where questions come from, what is refused, and how the
rest is tagged.

A source is a built-in family, from which questions are drawn, or files (`path`), every row of which
is read.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from bimode import plugins
from bimode.config.common import ConfigModel, Named, Positive, Share
from bimode.config.mix import MixConfig
from bimode.config.traces import JudgeConfig, TraceConfig
from bimode.errors import ConfigError

Family = Literal["digits", "charts", "arithmetic", "sums", "tables", "reasoning_gym"]
Reader = Literal["auto", "parquet", "jsonl", "hf", "webdataset", "images"]
LAYOUTS = ("columns", "chat", "llava", "scienceqa", "ai2d", "chartqa", "gsm8k", "mathvista")
VERIFIERS = ("auto", "exact", "int", "number", "choice", "math")
Layout = Annotated[str, AfterValidator(Named("layout", LAYOUTS))]
Verifier = Annotated[str, AfterValidator(Named("verifier", VERIFIERS))]
Generator = Annotated[str, AfterValidator(Named("generator"))]
Radius = Annotated[int, Field(ge=0, le=64)]


class SourceConfig(ConfigModel):
    """One source of questions: a family, a generator of your own, or files."""

    family: Family | None = Field(
        None,
        description=(
            "which generator (`data_curation/demo`); `sums`, `tables` and"
            " `reasoning_gym` are text only"
        ),
    )
    generator: Generator = Field("", description="your own function instead of a family")
    weight: float = Field(
        1.0,
        gt=0.0,
        description="share of the generated questions, over the sum of all such weights",
    )
    tasks: tuple[str, ...] = Field(
        (), description="reasoning_gym only: `chain_sum`, `leg_counting`; empty: the first"
    )
    path: str = Field(
        "",
        description=(
            "files instead: a file, a folder, a pattern (`shards/*.parquet`) or a URI (`s3://`,"
            " `gs://`)"
        ),
    )
    reader: Reader = Field(
        "auto",
        description=(
            "of `path`; `auto` goes by the files' names; `hf` is a folder of"
            " `datasets.save_to_disk`"
        ),
    )
    layout: Layout = Field(
        "columns", description="how a record of `path` becomes a question (docs/data.md)"
    )
    columns: dict[str, str] = Field(
        {},
        description=(
            "layout `columns`: our name = theirs, of question, answer, images, trace, choices, id,"
            " task, level"
        ),
    )
    split: Literal["train", "rl", "eval", "decontaminate"] = Field(
        "train",
        description=(
            "where the rows of `path` go; `decontaminate`: nowhere, they are evaluation items that"
            " no row may repeat"
        ),
    )
    verifier: Verifier = Field(
        "auto",
        description=(
            "of the answers of `path`; `auto` goes by the answer, and free text needs"
            " `curate.judge`; name your own also where your generator's samples have it"
        ),
    )
    verifier_args: dict[str, Any] = Field(
        {}, description="of a verifier of your own, e.g. `{ places = 2 }`"
    )
    rel_tol: Share | None = Field(
        None,
        description=(
            "how far a number may be off, relative to the answer; years and counts are compared"
            " exactly; default: 0.05 for `chartqa`, the decimal places of `mathvista`, else 0"
        ),
    )
    follow_links: bool = Field(
        False,
        description=(
            "whether links inside the folder `path` are followed, wherever they lead; "
            "without it one that would be read is refused. `path` itself may be a link"
        ),
    )
    name: str = Field("", description="of the source, in every row; empty: the last part of `path`")
    license: str = Field(
        "unknown", description="of `path`, e.g. `CC-BY-4.0`; in every row and in the card"
    )

    @model_validator(mode="after")
    def _one_kind(self) -> SourceConfig:
        given = [name for name in (self.family, self.generator, self.path) if name]
        if len(given) != 1:
            shown = " and ".join(given) or "(missing)"
            fix = "name a family, a generator or a path, one of them"
            raise ConfigError("family", shown, fix)
        if self.tasks and self.family != "reasoning_gym":
            raise ConfigError(
                "tasks",
                ", ".join(self.tasks),
                f"only reasoning_gym has tasks; leave them out of {self.family}",
            )
        if self.verifier_args and not plugins.is_plugin(self.verifier):
            fix = "only a verifier of your own takes arguments from here; leave them out"
            raise ConfigError("verifier_args", ", ".join(self.verifier_args), fix)
        if self.rel_tol is not None and (self.draws or self.verifier not in ("auto", "number")):
            fix = 'applies to files with verifier "auto" or "number" only; leave it out'
            raise ConfigError("rel_tol", self.rel_tol, fix)
        unknown = sorted(self.columns.keys() - OUR_COLUMNS)
        if unknown:
            raise ConfigError(
                "columns",
                ", ".join(unknown),
                f"on the left stands one of {', '.join(sorted(OUR_COLUMNS))}",
            )
        if self.columns and (self.draws or self.layout != "columns"):
            by = f'layout "{self.layout}", which has its own'
            if self.draws:
                by = f"family {self.family}" if self.family else f"generator {self.generator}"
            raise ConfigError(
                "columns",
                ", ".join(self.columns),
                f'are not read by {by}; leave them out, or take layout "columns"',
            )
        missing = [name for name in ("question", "answer") if name not in self.columns]
        if self.path and self.layout == "columns" and missing:
            shown = ", ".join(self.columns) or "(none)"
            fix = (
                f'name {" and ".join(missing)} too, e.g. {{ question = "query", answer = "label" }}'
            )
            raise ConfigError("columns", shown, fix)
        return self

    @property
    def draws(self) -> str:
        """What questions are drawn from; empty for files."""
        return self.family or self.generator

    @property
    def plugins(self) -> dict[str, str]:
        """Digests of own code that decides the source's candidates."""
        return plugins.digests((self.generator, self.layout, self.verifier))


OUR_COLUMNS = frozenset(("question", "answer", "images", "trace", "choices", "id", "task", "level"))


class FilterConfig(ConfigModel):
    """What a sound row may still be refused for. 0 and an empty list switch a filter off."""

    languages: tuple[str, ...] = Field(
        (), description='of the question, e.g. ["en"]; texts under `language_words` pass'
    )
    language_words: Positive = Field(
        6, description="words from which on a text's language is looked at"
    )
    max_question: Positive = Field(8000, description="characters of a question")
    max_answer: Positive = Field(
        2000, description="characters of an answer; the verifier reads no more"
    )
    max_trace: Positive = Field(32000, description="characters of a reasoning trace")
    max_repetition: Share = Field(
        0.5, description="share of a text of 40 words or more that repeats 4-grams it had before"
    )


class DedupConfig(ConfigModel):
    """Which rows count as the same. Question and pixels are always compared exactly."""

    image_radius: Radius = Field(
        32,
        description=(
            "bits of a 256-bit perceptual hash that may differ between near-duplicate images, whose"
            " thumbnails must agree too; question and answer must be equal; 0 = exact pixels only,"
            " and no hashes: no later run finds near ones either"
        ),
    )
    text_similarity: Share = Field(
        0.8,
        description=(
            "Jaccard similarity of 3-word shingles at which free texts are the same; 0 = off"
        ),
    )
    text_words: Positive = Field(20, description="words from which on a question is free text")
    ngram: int = Field(
        8,
        ge=0,
        description=(
            "words of the n-grams by which evaluation items are found in other rows; 0 = off"
        ),
    )
    against: tuple[str, ...] = Field(
        (), description="earlier runs' directories: what one of them published is a duplicate here"
    )


class RolloutSampling(ConfigModel):
    """How the tagging model is sampled: `n` per mode."""

    n: Positive = Field(8, description="attempts at each question in each mode")
    models: tuple[str, ...] = Field(
        (),
        description=(
            "directories of the models that tag, instead of `model.base`; each question goes to the"
            " first that was not trained on it, as far as its run directory tells (docs/data.md)"
        ),
    )
    temperature: float = Field(1.0, gt=0.0, description="of sampling")
    max_tokens: Positive = Field(
        48, description="generated tokens of an attempt; those that force the mode come on top"
    )
    concurrency: Positive = Field(
        1, description="engines; each takes `cluster.rollout_cpus` and `rollout_gpus`"
    )

    @field_validator("models")
    @classmethod
    def _are_named(cls, models: tuple[str, ...]) -> tuple[str, ...]:
        if not all(model.strip() for model in models):
            raise ValueError("an empty name is no directory; leave it out")
        return models


class TagConfig(ConfigModel):
    """Which rule turns pass counts into a tag (`data_curation.tagging.tags`)."""

    rule: Literal["corrected", "r4b"] = Field(
        "corrected",
        description=(
            "`corrected` for guessing (ours); `r4b`: thinking where every non-thinking attempt"
            " fails"
        ),
    )
    confidence: float = Field(
        0.9,
        gt=0.5,
        lt=1.0,
        description="of Wilson's interval of the non-thinking pass rate, two-sided",
    )
    non_thinking_ok: Share = Field(
        0.75,
        description="non-thinking pass rate, less guessing, at which thinking is not needed",
    )
    non_thinking_poor: Share = Field(0.5, description="and the rate below which it is")

    @model_validator(mode="after")
    def _in_order(self) -> TagConfig:
        if self.non_thinking_poor >= self.non_thinking_ok:
            raise ConfigError(
                "non_thinking_poor",
                self.non_thinking_poor,
                f"must be below non_thinking_ok = {self.non_thinking_ok}",
            )
        return self


class CurateConfig(ConfigModel):
    """Questions in, tagged bi-mode Parquet out."""

    sources: tuple[SourceConfig, ...] = Field(
        (SourceConfig(family="digits"),),
        min_length=1,
        description="where questions come from, one `[[curate.sources]]` each",
    )
    train: Positive = Field(
        600, description="questions drawn for annealing, before any is rejected"
    )
    rl: Positive = Field(200, description="questions drawn for BPO")
    eval: Positive = Field(
        300, description="questions drawn for evaluation, levels in equal thirds"
    )
    source_split: Literal["", "base"] = Field(
        "", description="`base`: draw train rows from the base model's own sources"
    )
    level_weights: tuple[float, float, float] = Field(
        (0.5, 0.25, 0.25), description="easy, mid, hard in train and rl"
    )
    formats: Literal["by_tag", "transcription_and_direct"] = Field(
        "by_tag",
        description=(
            "`transcription_and_direct`: what the image shows and bare answers, to make a base"
            " model; no tags"
        ),
    )
    paired_share: Share = Field(
        0.25, description="share of rows that are exported in both formats, tagged or not; 1 = all"
    )
    rollouts: RolloutSampling = Field(
        RolloutSampling(), description="how the tagging model is sampled"
    )
    tag: TagConfig = Field(TagConfig(), description="the rule of the tags")
    filter: FilterConfig = Field(
        FilterConfig(), description="what a sound row is still refused for"
    )
    dedup: DedupConfig = Field(DedupConfig(), description="which rows count as the same")
    cross_fit_fold: tuple[int, int] | None = Field(
        None,
        description=(
            "take one part of the train questions only, e.g. `[0, 2]`, the first of two"
            " (docs/data.md)"
        ),
    )
    tag_rows: int = Field(
        0,
        ge=0,
        description=(
            "tag at most this many train rows by rollouts; paired rows need no tag; 0 = all"
        ),
    )

    judge: JudgeConfig = Field(JudgeConfig(), description="who tags open questions")
    traces: TraceConfig = Field(
        TraceConfig(), description="where reasoning traces come from, and what they are refused for"
    )
    mix: MixConfig = Field(
        MixConfig(), description="which of the train questions are taken; by default all"
    )
    keep_versions: Positive = Field(
        3, description="published versions of the data that stay, the current one among them"
    )

    @field_validator("cross_fit_fold")
    @classmethod
    def _is_one_of_them(cls, fold: tuple[int, int] | None) -> tuple[int, int] | None:
        if fold and not 0 <= fold[0] < fold[1]:
            raise ValueError(
                f"which, counted from 0, and of how many; write e.g. [0, {max(fold[1], 2)}]"
            )
        return fold

    @field_validator("level_weights")
    @classmethod
    def _is_a_share(cls, weights: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(weights) < 0 or sum(weights) <= 0:
            raise ValueError(
                "weights are zero or more, and one of them is more; write e.g. [0.5, 0.25, 0.25]"
            )
        return weights

    def settings(self) -> dict[str, Any]:
        """What the data depends on; how many engines find it, and how many of its versions stay, is
        not among it.
        """
        engines = {name: {"concurrency"} for name in ("rollouts", "judge", "traces")}
        dumped = self.model_dump(mode="json", exclude={**engines, "keep_versions": True})
        return dumped | {"plugins": [source.plugins for source in self.sources]}

    @property
    def verifiers(self) -> frozenset[str]:
        """Verifiers of the user that the sources name: rows may ask for these and no others."""
        return frozenset(self.verifier_digests)

    @property
    def verifier_digests(self) -> dict[str, str]:
        """Their digests, by name."""
        return plugins.digests(source.verifier for source in self.sources)

    @property
    def tags(self) -> bool:
        """Whether rows are tagged by rollouts; the formats of a base model's data need no tag."""
        return self.formats == "by_tag"
