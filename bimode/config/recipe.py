"""The recipe as a schema: what a human types, checked before anything starts. Imports nothing
heavy.

Every value has a default or is required; an unknown key, a wrong type or an impossible value is a
`ConfigError` of one line (`bimode.config.load`). Validators refuse; only `bpo.algorithm` brings
defaults, of keys that are not given. The `[curate]` section is in `bimode.config.curate`, `[bpo]`
in `bimode.config.rl`, what sections share in `bimode.config.common`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, field_validator, model_validator

from bimode.config.common import ConfigModel, LearnerConfig, Named, OptimConfig, Positive
from bimode.config.curate import CurateConfig
from bimode.config.load import overridden, read_table, validate
from bimode.config.rl import BpoConfig
from bimode.errors import ConfigError
from bimode.rl.transports import LIMITS, resolve

FORCED = 2  # tokens after <think> that make a response direct (`bimode.modes`)
Stage = Literal["curate", "anneal", "bpo", "evaluate"]
Sink = Annotated[str, AfterValidator(Named("sink", ("tensorboard", "wandb", "mlflow")))]


class ModelConfig(ConfigModel):
    """Where the run starts."""

    base: str = Field(
        "assets/tiny-base",
        min_length=1,
        description="Hugging Face directory, or `new:tiny-llava` for random weights",
    )
    max_model_len: Positive = Field(
        256,
        description=(
            "tokens of prompt and response together that an engine takes; a row whose prompt leaves"
            " none for a response is a reject"
        ),
    )
    max_pixels: int = Field(
        0,
        ge=0,
        description=(
            "of an image before it becomes tokens: the base's processor is set to it, for learner"
            " and engine alike; 0 = the processor's own, 12.8 million for Qwen's, which is 16,384"
            " tokens"
        ),
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32",
        description=(
            "of the weights, in the engines and under DeepSpeed; with the torch learner that of"
            " autocast"
        ),
    )


Chaos = Literal[
    "",
    "kill-rollout",
    "stall-rollout",
    "corrupt-weights",
    "slow-sync",
    "kill-learner",
    "kill-driver",
]


class ClusterConfig(ConfigModel):
    """Resources of a local Ray instance and of each role. On a running cluster only the role sizes
    count.
    """

    num_cpus: int = Field(
        4,
        ge=4,
        description="logical CPUs of a local Ray; at least 4 (Ray Data and actors share them)",
    )
    object_store_mb: Positive = Field(
        512, description="MiB of shared memory for the objects of a local Ray"
    )
    rollout_cpus: float = Field(
        1.0, ge=0.0, description="logical CPUs of each engine, in curate, bpo and evaluate"
    )
    rollout_gpus: float = Field(
        0.0, ge=0.0, description="GPUs of each engine, at most 1; 0 runs it on the CPU"
    )
    learner_cpus: float = Field(
        1.0, ge=0.0, description="logical CPUs of each learner rank, in anneal and bpo"
    )
    learner_gpus: float = Field(
        0.0, ge=0.0, description="GPUs of each learner rank, at most 1; 0 trains on the CPU"
    )
    rollout_resource: str = Field(
        "", description="custom Ray resource that pins rollout workers, e.g. `rollout`"
    )
    learner_resource: str = Field(
        "", description="custom Ray resource that pins the learner, e.g. `learner`"
    )
    threads: Positive = Field(1, description="torch threads of each worker")
    chaos: Chaos = Field(
        "",
        description=(
            "a fault drill: what is damaged while `bpo` runs (`pipelines/chaos.py`); `--chaos`"
            " sets it"
        ),
    )
    chaos_every_s: float = Field(5.0, gt=0.0, description="mean seconds between two faults")
    chaos_seed: int = Field(0, ge=0, description="of the times and the victims")


class AnnealLearnerConfig(LearnerConfig):
    """The same for annealing, on two ranks by default."""

    workers: Positive = Field(
        2, description="ranks; each takes `cluster.learner_cpus` and `learner_gpus`"
    )


Strategy = Literal[
    "mixed", "non_r", "only_r", "non_r_then_r", "transcribe_then_direct", "transcription_and_direct"
]
Order = Literal["shuffled", "easy_first"]


class AnnealConfig(ConfigModel):
    """Bi-mode supervised annealing (R-4B, section 2 and Table 3)."""

    strategy: Strategy = Field(
        "mixed",
        description="which formats are trained when (R-4B, Table 3; `bimode.learner.strategies`)",
    )
    order: Order = Field(
        "shuffled",
        description=(
            "of the questions of a phase; `easy_first` reads them once from easy to hard, by the"
            " pass rates of their tags, and shuffles from then on"
        ),
    )
    steps: Positive = Field(300, description="optimizer steps")
    batch_size: Positive = Field(
        64, description="sequences of one optimizer step, over all workers"
    )
    mask_empty_think: bool = Field(
        False, description="no loss on the empty think block (R-4B masks it in pre-training)"
    )
    checkpoint_every: Positive = Field(
        200, description="steps between checkpoints, of which the last two are kept"
    )
    optim: OptimConfig = Field(OptimConfig(), description="the optimizer")
    learner: AnnealLearnerConfig = Field(AnnealLearnerConfig(), description="the learner group")

    @model_validator(mode="after")
    def _equal_shares(self) -> AnnealConfig:
        if self.batch_size % self.learner.workers:
            fix = f"must be a multiple of anneal.learner.workers = {self.learner.workers}"
            raise ConfigError("batch_size", self.batch_size, fix)
        return self


class EvaluateConfig(ConfigModel):
    """Three modes on held-out sources."""

    modes: tuple[Literal["auto", "thinking", "non_thinking"], ...] = Field(
        ("non_thinking", "auto", "thinking"),
        min_length=1,
        description="modes that are run; the routing numbers need all three",
    )
    split: Literal["train", "rl", "eval"] = Field("eval", description="questions that are asked")
    max_tokens: Positive = Field(
        64, description="tokens after `<think>`, forced ones too; a response cut off is wrong"
    )
    h_acc_samples: int = Field(
        8, ge=0, description="samples an item and mode for h_acc; 0 leaves it out (null)"
    )
    h_acc_items: Positive = Field(60, description="questions that are sampled for h_acc")
    h_acc_temperature: float = Field(
        1.0, gt=0.0, description="of those samples; everything else is greedy"
    )
    bootstrap: Positive = Field(
        1000, description="resamples of the questions behind the 95 % intervals of routing and gain"
    )
    workers: Positive = Field(
        2, description="engines; each takes `cluster.rollout_cpus` and `rollout_gpus`"
    )
    worker_timeout_s: float = Field(
        120.0,
        gt=0.0,
        description=(
            "an engine silent for so long is replaced and its share asked again; ten times while it"
            " loads"
        ),
    )

    @field_validator("modes")
    @classmethod
    def _once_each(cls, modes: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(modes)) < len(modes):
            raise ValueError("name each mode once")
        return modes


class TrackConfig(ConfigModel):
    """Where the numbers of metrics.jsonl go beside the file, while annealing and BPO run."""

    to: tuple[Sink, ...] = Field(
        (), description="trackers, or sinks of your own; one that fails never stops a run"
    )
    project: str = Field("bimode", min_length=1, description="wandb's project, mlflow's experiment")
    wandb_mode: Literal["offline", "online"] = Field(
        "offline", description="offline: `wandb sync` uploads what lies in the run's directory"
    )
    mlflow_uri: str = Field(
        "", description="of a tracking server; empty: files in the run's directory"
    )


class Recipe(ConfigModel):
    """A whole run."""

    name: str = Field(
        min_length=1, description="of the run; a recipe in the repository is named as its file"
    )
    seed: int = Field(0, ge=0, description="of everything that is drawn; `--seed` overrides it")
    stages: tuple[Stage, ...] = Field(
        ("curate", "anneal", "bpo", "evaluate"), description="what `bimode run` does, in this order"
    )
    model: ModelConfig = ModelConfig()
    cluster: ClusterConfig = ClusterConfig()
    curate: CurateConfig = CurateConfig()
    anneal: AnnealConfig = AnnealConfig()
    bpo: BpoConfig = Field(
        default_factory=BpoConfig
    )  # its algorithm is imported when a recipe is made
    evaluate: EvaluateConfig = EvaluateConfig()
    track: TrackConfig = TrackConfig()

    @classmethod
    def load(cls, path: Path, overrides: Sequence[str] = (), seed: int | None = None) -> Recipe:
        """Read a TOML file, with ``a.b=c`` overrides applied in order. Raises ConfigError.

        Example: ``Recipe.load(Path("pipelines/recipes/tiny.toml"), ["bpo.steps=10"])``.
        """
        return cls.of(read_table(path), overrides, seed)

    @classmethod
    def of(
        cls, table: dict[str, Any], overrides: Sequence[str] = (), seed: int | None = None
    ) -> Recipe:
        """Make a recipe of a table, as `load` does."""
        return validate(overridden(table, tuple(overrides), seed), cls)

    @field_validator("stages")
    @classmethod
    def _in_order(cls, stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
        if not stages or stages != tuple(stage for stage in get_args(Stage) if stage in stages):
            raise ValueError(
                f"name at least one, each once, in this order: {', '.join(get_args(Stage))}"
            )
        return stages

    @model_validator(mode="after")
    def _responses_fit(self) -> Recipe:
        limits = {
            "curate.rollouts.max_tokens": self.curate.rollouts.max_tokens,
            "curate.traces.max_tokens": self.curate.traces.max_tokens,
            "bpo.max_tokens": self.bpo.max_tokens,
            "evaluate.max_tokens": self.evaluate.max_tokens,
        }
        for key in ("bpo.max_tokens", "evaluate.max_tokens"):
            if limits[key] <= FORCED:
                fix = f"must be more than {FORCED}, which forcing a mode takes of it"
                raise ConfigError(key, limits[key], fix)
        for key, tokens in limits.items():
            if tokens >= self.model.max_model_len:
                fix = (
                    f"must be below model.max_model_len = {self.model.max_model_len}, which holds"
                    " the prompt too"
                )
                raise ConfigError(key, tokens, fix)
        return self

    @property
    def transport(self) -> str:
        """What `bpo.sync` means on this recipe's placement (`bimode.rl.transports.resolve`)."""
        gpus = self.cluster.rollout_gpus >= 1 and self.cluster.learner_gpus >= 1
        return resolve(self.bpo.sync, gpus=gpus, joins=bool(self.bpo.rollout_workers_max))

    @model_validator(mode="after")
    def _placement_fits_the_transport(self) -> Recipe:
        sync, cluster = self.bpo.sync, self.cluster
        wants_gpus = LIMITS[sync].gpus if sync in LIMITS else None
        if wants_gpus and not (cluster.rollout_gpus and cluster.learner_gpus):
            fix = (
                "moves weights between GPUs; use auto, or set cluster.rollout_gpus and"
                " cluster.learner_gpus"
            )
            raise ConfigError("bpo.sync", sync, fix)
        if wants_gpus is False and (cluster.rollout_gpus or cluster.learner_gpus):
            fix = "reads the learner's memory, which a GPU's is not; use auto"
            raise ConfigError("bpo.sync", sync, fix)
        return self

    @model_validator(mode="after")
    def _actors_use_one_gpu(self) -> Recipe:
        for key in ("rollout_gpus", "learner_gpus"):
            gpus = getattr(self.cluster, key)
            if gpus > 1:
                fix = "an engine and a learner rank compute on one GPU each; use at most 1"
                raise ConfigError(f"cluster.{key}", gpus, fix)
        return self

    @model_validator(mode="after")
    def _ipc_stays_on_one_gpu(self) -> Recipe:
        """Nothing places a learner rank beside each rollout worker."""
        if self.bpo.sync != "ipc":
            return self
        if self.bpo.learner.workers > 1 or self.bpo.rollout_workers > 1:
            fix = "needs one learner rank and one rollout worker; use nccl for several"
            raise ConfigError("bpo.sync", "ipc", fix)
        if self.cluster.rollout_gpus + self.cluster.learner_gpus > 1:
            fix = "needs both on one GPU; set cluster.rollout_gpus and cluster.learner_gpus to 0.5"
            raise ConfigError("bpo.sync", "ipc", fix)
        return self

    @model_validator(mode="after")
    def _gradients_are_summed_in_float32(self) -> Recipe:
        for stage, learner in (("anneal", self.anneal.learner), ("bpo", self.bpo.learner)):
            is_rounded = learner.engine == "deepspeed" and learner.zero_stage == 0
            if is_rounded and self.model.dtype == "bfloat16":
                fix = "would sum gradients in bfloat16; use 1, which sums them in float32"
                raise ConfigError(f"{stage}.learner.zero_stage", 0, fix)
        return self
