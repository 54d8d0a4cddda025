"""The recipe as a schema: what a human types, checked before anything starts. Imports nothing heavy.

Every value has a default or is required; an unknown key, a wrong type or an impossible value is a `ConfigError` of one
line (`bimode.recipe`). Validators refuse; only `bpo.algorithm` brings defaults, of keys that are not given.
The `[bpo]` section is in `bimode.bpo_config`, what sections share in `bimode.sections`.
"""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field, field_validator, model_validator

from bimode.bpo_config import BpoConfig
from bimode.errors import ConfigError
from bimode.sections import LearnerConfig, OptimConfig, Positive, Section, Share

Stage = Literal["curate", "anneal", "bpo", "evaluate"]
Level = Literal["easy", "mid", "hard"]


class ModelConfig(Section):
    """Where the run starts."""

    base: str = Field(
        "assets/tiny-base", min_length=1, description="Hugging Face directory, or `new:tiny-llava` for random weights"
    )
    max_model_len: Positive = Field(256, description="tokens of prompt and response together that an engine takes")
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the weights, in the engines and under DeepSpeed; with the torch learner that of autocast"
    )


Chaos = Literal["", "kill-rollout", "stall-rollout", "corrupt-weights", "slow-sync", "kill-learner", "kill-driver"]


class ClusterConfig(Section):
    """Resources of a local Ray instance and of each role. On a running cluster only the role sizes count."""

    num_cpus: int = Field(4, ge=4, description="logical CPUs of a local Ray; at least 4 (Ray Data and actors share them)")
    object_store_mb: Positive = Field(512, description="MiB of shared memory for the objects of a local Ray")
    rollout_cpus: float = Field(1.0, ge=0.0, description="logical CPUs of each engine, in curate, bpo and evaluate")
    rollout_gpus: float = Field(0.0, ge=0.0, description="GPUs of each engine; 0 runs it on the CPU")
    learner_cpus: float = Field(1.0, ge=0.0, description="logical CPUs of each learner rank, in anneal and bpo")
    learner_gpus: float = Field(0.0, ge=0.0, description="GPUs of each learner rank; 0 trains on the CPU")
    rollout_resource: str = Field("", description="custom Ray resource that pins rollout workers, e.g. `rollout`")
    learner_resource: str = Field("", description="custom Ray resource that pins the learner, e.g. `learner`")
    threads: Positive = Field(1, description="torch threads of each worker")
    chaos: Chaos = Field(
        "", description="a fault drill: what is damaged while `bpo` runs (`pipelines/chaos.py`); `--chaos` sets it"
    )
    chaos_every_s: float = Field(5.0, gt=0.0, description="mean seconds between two faults")
    chaos_seed: int = Field(0, ge=0, description="of the times and the victims")


class SourceConfig(Section):
    """One source of questions."""

    family: Literal["digits", "charts", "arithmetic", "sums", "tables", "reasoning_gym"] = Field(
        description="which generator (`data_curation/families`); `sums`, `tables` and `reasoning_gym` are text only"
    )
    weight: float = Field(1.0, gt=0.0, description="share of the questions, over the sum of all sources' weights")
    tasks: tuple[str, ...] = Field((), description="reasoning_gym only: `chain_sum`, `leg_counting`; empty: the first")

    @model_validator(mode="after")
    def _tasks_fit(self) -> SourceConfig:
        if self.tasks and self.family != "reasoning_gym":
            raise ConfigError("tasks", ", ".join(self.tasks), f"only reasoning_gym has tasks; leave them out of {self.family}")
        return self


class RolloutSampling(Section):
    """How the tagging model is sampled: `n` per mode."""

    n: Positive = Field(8, description="attempts at each question in each mode")
    temperature: float = Field(1.0, gt=0.0, description="of sampling")
    max_tokens: Positive = Field(48, description="generated tokens of an attempt; those that force the mode come on top")
    concurrency: Positive = Field(1, description="engines; each takes `cluster.rollout_cpus` and `rollout_gpus`")


class TagConfig(Section):
    """Which rule turns pass counts into a tag (`bimode.tags`)."""

    rule: Literal["corrected", "r4b"] = Field(
        "corrected", description="`corrected` for guessing (ours); `r4b`: thinking where every direct attempt fails"
    )
    confidence: float = Field(0.9, gt=0.5, lt=1.0, description="of Wilson's interval of the direct pass rate, two-sided")
    direct_ok: Share = Field(0.75, description="direct pass rate, corrected for guessing, at which thinking is not needed")
    direct_poor: Share = Field(0.5, description="and the rate below which it is")

    @model_validator(mode="after")
    def _in_order(self) -> TagConfig:
        if self.direct_poor >= self.direct_ok:
            raise ConfigError("direct_poor", self.direct_poor, f"must be below direct_ok = {self.direct_ok}")
        return self


class CurateConfig(Section):
    """Questions in, tagged bi-mode Parquet out."""

    sources: tuple[SourceConfig, ...] = Field(
        (SourceConfig(family="digits"),), min_length=1, description="where questions come from, one `[[curate.sources]]` each"
    )
    train: Positive = Field(600, description="questions drawn for annealing, before any is rejected")
    rl: Positive = Field(200, description="questions drawn for BPO")
    eval: Positive = Field(300, description="questions drawn for evaluation, levels in equal thirds")
    source_split: Literal["", "base"] = Field("", description="`base`: draw train rows from the base model's own sources")
    level_weights: tuple[float, float, float] = Field((0.5, 0.25, 0.25), description="easy, mid, hard in train and rl")
    formats: Literal["by_tag", "transcription_and_direct"] = Field(
        "by_tag", description="`transcription_and_direct`: what the image shows and bare answers, to make a base model; no tags"
    )
    paired_share: Share = Field(0.25, description="share of rows that are exported in both formats, tagged or not; 1 = all")
    rollouts: RolloutSampling = Field(RolloutSampling(), description="how the tagging model is sampled")
    tag: TagConfig = Field(TagConfig(), description="the rule of the tags")
    tag_rows: int = Field(0, ge=0, description="tag at most this many train rows by rollouts; paired rows need no tag; 0 = all")

    @field_validator("level_weights")
    @classmethod
    def _is_a_share(cls, weights: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(weights) < 0 or sum(weights) <= 0:
            raise ValueError("weights are zero or more, and one of them is more; write e.g. [0.5, 0.25, 0.25]")
        return weights

    @property
    def tags(self) -> bool:
        """Whether rows are tagged by rollouts; the formats of a base model's data need no tag."""
        return self.formats == "by_tag"


class AnnealLearnerConfig(LearnerConfig):
    """The same for annealing, on two ranks by default."""

    workers: Positive = Field(2, description="ranks; each takes `cluster.learner_cpus` and `learner_gpus`")


Strategy = Literal["mixed", "non_r", "only_r", "non_r_then_r", "transcribe_then_direct", "transcription_and_direct"]


class AnnealConfig(Section):
    """Bi-mode supervised annealing (R-4B, section 2 and Table 3)."""

    strategy: Strategy = Field("mixed", description="which formats are trained when (R-4B, Table 3; `bimode.strategies`)")
    steps: Positive = Field(300, description="optimizer steps")
    batch_size: Positive = Field(64, description="sequences of one optimizer step, over all workers")
    mask_empty_think: bool = Field(False, description="no loss on the empty think block (R-4B masks it in pre-training)")
    checkpoint_every: Positive = Field(200, description="steps between checkpoints, of which the last two are kept")
    optim: OptimConfig = Field(OptimConfig(), description="the optimizer")
    learner: AnnealLearnerConfig = Field(AnnealLearnerConfig(), description="the learner group")

    @model_validator(mode="after")
    def _equal_shares(self) -> AnnealConfig:
        if self.batch_size % self.learner.workers:
            fix = f"must be a multiple of anneal.learner.workers = {self.learner.workers}"
            raise ConfigError("batch_size", self.batch_size, fix)
        return self


class EvaluateConfig(Section):
    """Three modes on held-out sources."""

    modes: tuple[Literal["auto", "thinking", "non_thinking"], ...] = Field(
        ("non_thinking", "auto", "thinking"), min_length=1, description="modes that are run; the routing numbers need all three"
    )
    split: Literal["train", "rl", "eval"] = Field("eval", description="questions that are asked")
    max_tokens: Positive = Field(64, description="tokens after `<think>`, forced ones too; a response cut off is wrong")
    h_acc_samples: int = Field(8, ge=0, description="samples an item and mode for h_acc; 0 leaves it out (null)")
    h_acc_items: Positive = Field(60, description="questions that are sampled for h_acc")
    h_acc_temperature: float = Field(1.0, gt=0.0, description="of those samples; everything else is greedy")
    bootstrap: Positive = Field(1000, description="resamples of the questions behind the 95 % intervals of routing and gain")
    workers: Positive = Field(2, description="engines; each takes `cluster.rollout_cpus` and `rollout_gpus`")

    @field_validator("modes")
    @classmethod
    def _once_each(cls, modes: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(modes)) < len(modes):
            raise ValueError("name each mode once")
        return modes


class Recipe(Section):
    """A whole run."""

    name: str = Field(min_length=1, description="of the run; a recipe in the repository is named as its file")
    seed: int = Field(0, ge=0, description="of everything that is drawn; `--seed` overrides it")
    stages: tuple[Stage, ...] = Field(
        ("curate", "anneal", "bpo", "evaluate"), description="what `bimode run` does, in this order"
    )
    model: ModelConfig = ModelConfig()
    cluster: ClusterConfig = ClusterConfig()
    curate: CurateConfig = CurateConfig()
    anneal: AnnealConfig = AnnealConfig()
    bpo: BpoConfig = Field(default_factory=BpoConfig)  # its algorithm is imported when a recipe is made
    evaluate: EvaluateConfig = EvaluateConfig()

    @field_validator("stages")
    @classmethod
    def _in_order(cls, stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
        if not stages or stages != tuple(stage for stage in get_args(Stage) if stage in stages):
            raise ValueError(f"name at least one, each once, in this order: {', '.join(get_args(Stage))}")
        return stages

    @model_validator(mode="after")
    def _responses_fit(self) -> Recipe:
        limits = {
            "curate.rollouts.max_tokens": self.curate.rollouts.max_tokens,
            "bpo.max_tokens": self.bpo.max_tokens,
            "evaluate.max_tokens": self.evaluate.max_tokens,
        }
        for key, tokens in limits.items():
            if tokens >= self.model.max_model_len:
                fix = f"must be below model.max_model_len = {self.model.max_model_len}, which holds the prompt too"
                raise ConfigError(key, tokens, fix)
        return self
