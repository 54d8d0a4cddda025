"""The recipe as a schema: what a human types, checked before anything starts. Imports nothing heavy.

Every value has a default or is required; an unknown key, a wrong type or an impossible value is a `ConfigError` of one
line (`bimode.recipe`). Validators refuse, they never change a value.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Stage = Literal["curate", "anneal", "bpo", "evaluate"]
Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Level = Literal["easy", "mid", "hard"]


class Section(BaseModel):
    """A table of the recipe: frozen, and every unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelConfig(Section):
    """Where the run starts."""

    base: str = Field("assets/tiny-base", description="Hugging Face directory, or `new:tiny-llava` for random weights")
    max_model_len: Positive = 256
    dtype: Literal["float32", "bfloat16"] = "float32"


class ClusterConfig(Section):
    """Resources of a local Ray instance and of each role. On a running cluster only the role sizes count."""

    num_cpus: Positive = Field(4, description="logical CPUs of a local Ray; at least 4 (Ray Data and actors share them)")
    object_store_mb: Positive = 512
    rollout_cpus: float = Field(1.0, ge=0.0)
    rollout_gpus: float = Field(0.0, ge=0.0)
    learner_cpus: float = Field(1.0, ge=0.0)
    learner_gpus: float = Field(0.0, ge=0.0)
    rollout_resource: str = Field("", description="custom Ray resource that pins rollout workers, e.g. `rollout`")
    learner_resource: str = Field("", description="custom Ray resource that pins the learner, e.g. `learner`")
    threads: Positive = Field(1, description="torch threads of each worker")


class SourceConfig(Section):
    """One source of questions."""

    family: Literal["digits", "charts", "arithmetic", "tables", "reasoning_gym"]
    weight: float = Field(1.0, gt=0.0)
    tasks: tuple[str, ...] = Field((), description="reasoning_gym only: names of its data sets")


class RolloutSampling(Section):
    """How the tagging model is sampled: `n` per mode."""

    n: Positive = 8
    temperature: float = Field(1.0, gt=0.0)
    max_tokens: Positive = 48
    batch_size: Positive = 128
    concurrency: Positive = 1


class TagConfig(Section):
    """Which rule turns pass counts into a tag (contract, Tags)."""

    rule: Literal["corrected", "r4b"] = "corrected"
    confidence: float = Field(0.9, gt=0.5, lt=1.0)
    direct_ok: Share = Field(0.75, description="direct pass rate, corrected for guessing, at which thinking is not needed")
    direct_poor: Share = Field(0.5, description="and the rate below which it is")


class CurateConfig(Section):
    """Questions in, tagged bi-mode Parquet out."""

    sources: tuple[SourceConfig, ...] = (SourceConfig(family="digits"),)
    train: Positive = 600
    rl: Positive = 200
    eval: Positive = 300
    source_split: Literal["", "base"] = Field("", description="`base`: draw train rows from the base model's own sources")
    level_weights: tuple[float, float, float] = Field((0.5, 0.25, 0.25), description="easy, mid, hard in train and rl")
    formats: Literal["by_tag", "transcription_and_direct"] = "by_tag"
    paired_share: Share = Field(0.25, description="share of tagged rows that are exported in both formats; 1 = all")
    rollouts: RolloutSampling = RolloutSampling()
    tag: TagConfig = TagConfig()
    tag_rows: int = Field(0, ge=0, description="tag at most this many train rows by rollouts; 0 = all")

    @property
    def tags(self) -> bool:
        """Whether rows are tagged by rollouts; the formats of a base model's data need no tag."""
        return self.formats == "by_tag"


class OptimConfig(Section):
    """AdamW with a linear warm-up and a cosine down to `final_lr_share`."""

    lr: float = Field(1e-3, gt=0.0)
    final_lr_share: Share = 0.1
    warmup_steps: int = Field(20, ge=0)
    schedule: Literal["cosine", "constant"] = "cosine"
    weight_decay: float = Field(0.05, ge=0.0)
    betas: tuple[float, float] = (0.9, 0.98)
    grad_clip: float = Field(1.0, gt=0.0)


class LearnerConfig(Section):
    """The learner group: same class for annealing and BPO."""

    workers: Positive = 1
    engine: Literal["deepspeed", "torch"] = "deepspeed"
    zero_stage: Literal[0, 1, 2, 3] = 1
    row_tokens: Positive = Field(288, description="tokens of a packed row")
    micro_rows: Positive = Field(16, description="packed rows of one forward pass")
    freeze: tuple[str, ...] = Field((), description="regular expressions of parameter names that do not train")


Strategy = Literal["mixed", "non_r", "only_r", "non_r_then_r", "transcribe_then_direct"]


class AnnealConfig(Section):
    """Bi-mode supervised annealing (R-4B, section 2 and Table 3)."""

    strategy: Strategy = "mixed"
    steps: Positive = 300
    batch_size: Positive = Field(64, description="sequences of one optimizer step, over all workers")
    mask_empty_think: bool = Field(False, description="no loss on the empty think block (R-4B masks it in pre-training)")
    checkpoint_every: Positive = 200
    optim: OptimConfig = OptimConfig()
    learner: LearnerConfig = LearnerConfig(workers=2)

    @model_validator(mode="after")
    def _equal_shares(self) -> AnnealConfig:
        if self.batch_size % self.learner.workers:
            raise ValueError(f"batch_size = {self.batch_size} must be a multiple of learner.workers = {self.learner.workers}")
        return self


class BpoConfig(Section):
    """Bi-mode policy optimization and its siblings. What R-4B does not state is marked ours in docs/algorithms."""

    algorithm: Literal["bpo", "grpo", "per_mode"] = "per_mode"
    decision: Literal["masked", "trained", "counterfactual"] = "counterfactual"
    margin: float = Field(0.15, ge=0.0, description="per_mode: thinking must be better by this much to be chosen (ours)")
    decision_scale: float = Field(4.0, gt=0.0, description="per_mode: advantage of the decision token (CounterRoute's s)")
    steps: Positive = 40
    prompts_per_step: Positive = 24
    group_size: Positive = Field(8, description="g: rollouts per prompt and mode (GRPO draws 2 g in auto)")
    temperature: float = Field(1.0, gt=0.0)
    max_tokens: Positive = 48
    clip_low: float = Field(0.2, gt=0.0)
    clip_high: float = Field(0.2, gt=0.0)
    kl: float = Field(0.01, ge=0.0)
    shuffle_rewards: bool = Field(False, description="control: rewards are permuted inside each step")
    rollout_workers: Positive = 2
    sync: Literal["object_store", "nccl", "ipc"] = "object_store"
    checkpoint_every: Positive = 10
    optim: OptimConfig = OptimConfig(lr=1e-4, schedule="constant", weight_decay=0.0, warmup_steps=0)
    learner: LearnerConfig = LearnerConfig()

    @model_validator(mode="after")
    def _decision_fits(self) -> BpoConfig:
        if self.decision == "counterfactual" and self.algorithm != "per_mode":
            raise ValueError(f"decision = counterfactual needs algorithm = per_mode, not {self.algorithm}")
        return self


class EvaluateConfig(Section):
    """Three modes on held-out sources."""

    modes: tuple[Literal["auto", "thinking", "non_thinking"], ...] = ("non_thinking", "auto", "thinking")
    split: Literal["train", "rl", "eval"] = "eval"
    max_tokens: Positive = 64
    h_acc_samples: int = Field(8, ge=0, description="samples an item and mode for h_acc; 0 leaves it out (null)")
    h_acc_items: Positive = 60
    h_acc_temperature: float = Field(1.0, gt=0.0)
    bootstrap: Positive = 1000
    workers: Positive = 2


class Recipe(Section):
    """A whole run."""

    name: str = Field(min_length=1)
    seed: int = Field(0, ge=0)
    stages: tuple[Stage, ...] = ("curate", "anneal", "bpo", "evaluate")
    model: ModelConfig = ModelConfig()
    cluster: ClusterConfig = ClusterConfig()
    curate: CurateConfig = CurateConfig()
    anneal: AnnealConfig = AnnealConfig()
    bpo: BpoConfig = BpoConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
