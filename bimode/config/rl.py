"""The `[bpo]` section of the recipe. The algorithm that it names brings its own defaults, and says
what it cannot do.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from bimode import algorithms, plugins
from bimode.algorithms.base import CreditSettings, Decision
from bimode.config.common import (
    ConfigModel,
    LearnerConfig,
    Named,
    OptimConfig,
    Positive,
    Share,
)
from bimode.errors import ConfigError
from bimode.rl.transports import LIMITS, can_join


class BpoOptimConfig(OptimConfig):
    """AdamW at a constant learning rate (ours)."""

    lr: float = Field(1e-4, gt=0.0, description="peak learning rate (ours)")
    warmup_steps: int = Field(
        0, ge=0, description="steps in which the learning rate rises linearly to `lr`"
    )
    schedule: Literal["cosine", "constant"] = Field(
        "constant", description="of the learning rate after the warm-up"
    )
    weight_decay: float = Field(0.0, ge=0.0, description="AdamW's, on matrices only")


class BpoConfig(ConfigModel):
    """Bi-mode policy optimization and its siblings. What R-4B does not state is marked ours in
    docs/algorithms.md.
    """

    algorithm: Annotated[str, AfterValidator(Named("algorithm", algorithms.NAMES))] = Field(
        "per_mode",
        description=(
            "a file of `bimode/algorithms`, or your own; its defaults of this section stand below"
        ),
    )
    reward: Annotated[str, AfterValidator(Named("reward"))] = Field(
        "",
        description=(
            "your own function of a group with its verified scores, which returns a reward for each"
            " completion; empty: the scores are the rewards"
        ),
    )
    decision: Decision = Field(
        "preferred",
        description=(
            "what the token that picks the mode is taught by; which of them, depends on the"
            " algorithm"
        ),
    )
    margin: float = Field(
        0.15,
        ge=0.0,
        description=(
            "thinking must be better by this much to be chosen; unused in `bpo` and in auto mode"
            " (ours)"
        ),
    )
    margin_final: float | None = Field(
        None, ge=0.0, description="margin of the last step, reached linearly; none is constant"
    )
    decision_scale: float = Field(
        4.0,
        gt=0.0,
        description=(
            "largest advantage of a `counterfactual` or `preferred` decision (CounterRoute's s)"
        ),
    )
    self_routed: Share = Field(
        0.0,
        description=(
            "share of a prompt's 2 g rollouts drawn in auto mode; 15 % stay forced in each mode"
            " (CounterRoute)"
        ),
    )
    self_routed_final: float | None = Field(
        None,
        ge=0.0,
        le=1.0,
        description="that share at the last step, reached linearly; none is constant",
    )
    steps: Positive = Field(40, description="updates of the policy (ours)")
    rollout_tokens: int = Field(
        0,
        ge=0,
        description=(
            "no further step once this many tokens were drawn; 0 = `steps` alone counts. Compares"
            " algorithms fairly"
        ),
    )
    prompts_per_step: Positive = Field(24, description="questions of one step (ours)")
    group_size: Positive = Field(
        8, description="g: rollouts per prompt and mode (2 g in auto where no mode is forced)"
    )
    temperature: float = Field(1.0, gt=0.0, description="of sampling (ours)")
    max_tokens: Positive = Field(
        48, description="tokens after `<think>`, forced ones too; a response cut off earns 0 (ours)"
    )
    overlong_buffer: Share = Field(
        0.0,
        description=(
            "last share of `max_tokens` over which a response loses 0 to 1 of reward (DAPO: 4096 of"
            " 20480)"
        ),
    )
    resample: int = Field(
        0,
        ge=0,
        description=(
            "groups without any credit that give way to fresh questions, in batches (DAPO's dynamic"
            " sampling)"
        ),
    )
    normalize: Literal["std", "none"] = Field(
        "std", description="centered rewards of a group: over their std, or as they are"
    )
    aggregate: Literal["sequence", "token", "constant"] = Field(
        "sequence",
        description=(
            "a token weighs 1 over its response's tokens, the batch's mean of those, or"
            " `max_tokens`"
        ),
    )
    clip_low: float = Field(
        0.2, gt=0.0, description="a probability ratio below 1 - clip_low is clipped (ours)"
    )
    clip_high: float = Field(0.2, gt=0.0, description="and one above 1 + clip_high (ours)")
    kl: float = Field(
        0.01,
        ge=0.0,
        description="weight of k3 towards the model BPO starts from; 0 loads no reference (ours)",
    )
    max_mismatch: float | None = Field(
        None,
        gt=0.0,
        description=(
            "nats (k3) a token that engine and learner may differ by: above it the first two steps"
            " end the run, later ones ring an alarm; none is 1e-4 in float32 and 0.05 in bfloat16"
            " (ours)"
        ),
    )
    importance: Literal["behavior", "truncated", "decoupled"] = Field(
        "behavior",
        description="what the ratio corrects: `bimode/rl/loss.py` has the three as formulas",
    )
    importance_cap: float = Field(
        2.0,
        ge=1.0,
        description="truncated: largest weight learner / engine of a token (TIS's C; 2 is usual)",
    )
    importance_reject: float = Field(
        5.0,
        ge=1.0,
        description=(
            "decoupled: a token whose weight learner / engine is larger is left out of the"
            " surrogate (ours)"
        ),
    )
    shuffle_rewards: bool = Field(
        False, description="control: rewards are permuted inside each step"
    )
    max_staleness: int = Field(
        0,
        ge=0,
        description=(
            "versions that the policy may have moved on by since a group was begun; 0 is the"
            " synchronous loop"
        ),
    )
    lease: int = Field(
        0,
        ge=0,
        description="questions that a worker takes at a time; 0 = an equal share of a step's",
    )
    leases_in_flight: Positive = Field(
        2,
        description=(
            "leases that a worker may have under way, which keeps its engine full; one at"
            " `max_staleness = 0`"
        ),
    )
    worker_timeout_s: float = Field(
        120.0,
        gt=0.0,
        description=(
            "a rollout worker silent for so long is replaced, its leases go to others; ten times"
            " while it loads"
        ),
    )
    sync_timeout_s: float = Field(
        120.0,
        gt=0.0,
        description=(
            "a worker that gets no further in a weight update for so long is replaced"
            " (`actors/weights`); with `nccl` and `ipc`, whose update is one call, everybody starts"
            " again (`learner_restarts`)"
        ),
    )
    learner_restarts: int = Field(
        3,
        ge=0,
        description=(
            "restarts from the last sealed checkpoint when a learner rank dies and, with "
            "`nccl` and `ipc`, when a rollout worker dies"
        ),
    )
    rollout_workers: Positive = Field(
        2, description="engines; each takes `cluster.rollout_cpus` and `rollout_gpus`"
    )
    rollout_workers_max: int = Field(
        0,
        ge=0,
        description=(
            "the run itself adds and dismisses engines, up to so many, by who waits for whom; 0 ="
            " it does not"
        ),
    )
    sync: Literal["auto", "object_store", "shared_memory", "nccl", "ipc"] = Field(
        "auto",
        description=(
            "how new weights travel to the rollout workers: `auto` is `nccl` between whole GPUs"
            " (but `object_store` with `rollout_workers_max`), else `shared_memory` where learner"
            " and workers share a machine's memory, else `object_store`; `ipc` is for one GPU"
        ),
    )
    checkpoint_every: Positive = Field(
        10, description="steps between checkpoints, of which the last two are kept"
    )
    optim: BpoOptimConfig = Field(BpoOptimConfig(), description="the optimizer (ours)")
    learner: LearnerConfig = Field(LearnerConfig(), description="the learner group")

    @model_validator(mode="before")
    @classmethod
    def _take_the_algorithms_defaults(cls, given: Any) -> Any:
        """What the user gave, over what the algorithm would have, over the schema's own
        defaults.
        """
        if not isinstance(given, dict):
            return given
        name = given.get("algorithm", cls.model_fields["algorithm"].default)
        try:
            return {**algorithms.load(str(name)).defaults, **given}
        except ConfigError:
            return given  # the field itself reports a name that is wrong

    @property
    def plugins(self) -> dict[str, str]:
        """Digests of own code that decides what is learned."""
        return plugins.digests((self.algorithm, self.reward))

    @property
    def credit_settings(self) -> CreditSettings:
        """What a credit function reads; scheduled values as they are at this step (`at`)."""
        return CreditSettings(self.normalize, self.decision, self.margin, self.decision_scale)

    def mismatch_limit(self, dtype: str) -> float:
        """`max_mismatch`, or what it is in a run of `dtype`."""
        return self.max_mismatch or (1e-4 if dtype == "float32" else 0.05)

    @property
    def lease_groups(self) -> int:
        """Questions of one lease; their number does not change with the workers of a live run."""
        return self.lease or -(-self.prompts_per_step // self.rollout_workers)

    @model_validator(mode="after")
    def _draws_alike(self) -> BpoConfig:
        if self.max_staleness and self.self_routed_final not in (None, self.self_routed):
            fix = (
                "groups of one update would be drawn under several shares; leave it out, or set"
                " bpo.max_staleness = 0"
            )
            raise ConfigError("self_routed_final", self.self_routed_final, fix)
        if self.max_staleness and self.sync in LIMITS and not LIMITS[self.sync].staleness:
            fix = (
                f"sync = {self.sync} moves weights while nothing is under way; take object_store,"
                " or set bpo.max_staleness = 0"
            )
            raise ConfigError("max_staleness", self.max_staleness, fix)
        if self.rollout_workers_max and not can_join(self.sync):
            fix = (
                f"sync = {self.sync} fixes the set of workers at the start; take object_store, or"
                " leave it out"
            )
            raise ConfigError("rollout_workers_max", self.rollout_workers_max, fix)
        if 0 < self.rollout_workers_max < self.rollout_workers:
            fix = (
                f"is less than bpo.rollout_workers = {self.rollout_workers}, with which the run"
                " starts; raise it, or lower that"
            )
            raise ConfigError("rollout_workers_max", self.rollout_workers_max, fix)
        return self

    @model_validator(mode="after")
    def _fits_the_algorithm(self) -> BpoConfig:
        algorithm = algorithms.load(self.algorithm)
        if self.decision not in algorithm.decisions:
            fix = f"bpo.algorithm = {self.algorithm} takes {' or '.join(algorithm.decisions)}"
            raise ConfigError("decision", self.decision, fix)
        if self.decision == "forced_as_sampled" and self.importance != "behavior":
            fix = (
                "would take the 1/2 of forced_as_sampled for a probability of the engine;"
                " use behavior, or another bpo.decision"
            )
            raise ConfigError("importance", self.importance, fix)
        for key, share in (
            ("self_routed", self.self_routed),
            ("self_routed_final", self.self_routed_final),
        ):
            if share and not algorithm.self_routes:
                raise ConfigError(
                    key,
                    share,
                    f"bpo.algorithm = {self.algorithm} has no rollouts of both kinds; leave it out",
                )
        return self

    def at(self, step: int) -> BpoConfig:
        """The config of `step` (from 0): scheduled values resolved, linearly from the first step to
        the last.
        """
        progress = step / max(self.steps - 1, 1)

        def on_the_way(start: float, end: float | None) -> float:
            return start if end is None else start + progress * (end - start)

        return self.model_copy(
            update={
                "margin": on_the_way(self.margin, self.margin_final),
                "margin_final": None,
                "self_routed": on_the_way(self.self_routed, self.self_routed_final),
                "self_routed_final": None,
            }
        )
