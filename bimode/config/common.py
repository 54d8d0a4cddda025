"""What sections of the recipe share: their base class, and the optimizer and the learner of both
training stages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticKnownError

from bimode import plugins
from bimode.errors import ConfigError
from bimode.models.families import Part
from bimode.storage.uri_secrets import refuse_secrets

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


@dataclass(frozen=True, slots=True)
class Named:
    """A validator of a key's value: one of `names`, or own code as ``"module:attribute"``."""

    kind: str
    names: tuple[str, ...] = ()

    def __call__(self, name: str) -> str:
        if not plugins.is_plugin(name) and self.names:
            if name not in self.names:
                *others, last = map(repr, self.names)
                expected = f"{', '.join(others)} or {last}" if others else last
                raise PydanticKnownError("literal_error", {"expected": expected})
        elif name:
            try:
                plugins.load(self.kind, name)
            except ConfigError as error:
                raise ValueError(error.fix) from None
        return name


class ConfigModel(BaseModel):
    """A table of the recipe: frozen, without credentials, and every unknown key is an error."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True
    )

    @model_validator(mode="before")
    @classmethod
    def _holds_no_secret(cls, table: Any) -> Any:
        refuse_secrets("", table)
        return table


class OptimConfig(ConfigModel):
    """AdamW with a linear warm-up and a cosine down to `final_lr_share`."""

    lr: float = Field(1e-3, gt=0.0, description="peak learning rate (R-4B anneals at 4e-5)")
    final_lr_share: Share = Field(
        0.1, description="last learning rate over `lr`, cosine only (R-4B's annealing: 0.1)"
    )
    warmup_steps: int = Field(
        20, ge=0, description="steps in which the learning rate rises linearly to `lr`"
    )
    schedule: Literal["cosine", "constant"] = Field(
        "cosine", description="of the learning rate after the warm-up"
    )
    weight_decay: float = Field(0.05, ge=0.0, description="AdamW's, on matrices only")
    betas: tuple[float, float] = Field((0.9, 0.98), description="AdamW's")
    grad_clip: float = Field(1.0, gt=0.0, description="largest norm of the whole gradient")

    @field_validator("betas")
    @classmethod
    def _are_decays(cls, betas: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError("each must be at least 0 and below 1; write e.g. [0.9, 0.98]")
        return betas


class LearnerConfig(ConfigModel):
    """The learner group: same class for annealing and BPO."""

    workers: Positive = Field(
        1, description="ranks; each takes `cluster.learner_cpus` and `learner_gpus`"
    )
    engine: Literal["deepspeed", "torch"] = Field(
        "deepspeed", description="`torch` holds weights and optimizer whole on each rank"
    )
    zero_stage: Literal[0, 1, 2, 3] = Field(
        1,
        description=(
            "what DeepSpeed splits over the ranks: 1 optimizer state, 2 gradients too, "
            "3 weights too; bfloat16 needs 1 at least"
        ),
    )
    micro_tokens: Positive = Field(
        4608,
        description=(
            "tokens of one forward pass, without padding; the responses to one prompt share it"
            " there"
        ),
    )
    gradient_checkpointing: bool = Field(
        False,
        description=(
            "activations inside a layer are computed again in the backward pass: less memory, more"
            " time"
        ),
    )
    head_chunk: int = Field(
        4096,
        ge=0,
        description=(
            "response positions whose logits exist at a time, the rest being computed again; 0"
            " = all"
        ),
    )
    reference_offload: bool = Field(
        False,
        description=(
            "BPO: the reference lives in the host's memory between steps; without effect on a CPU"
        ),
    )
    train: tuple[Part, ...] = Field(
        ("vision", "projector", "language"),
        min_length=1,
        description=(
            "parts of the model that are trained; the others are neither updated nor reduced"
            " (`projector` leads from the vision tower to the language model)"
        ),
    )

    @field_validator("train")
    @classmethod
    def _each_once(cls, parts: tuple[Part, ...]) -> tuple[Part, ...]:
        if len(set(parts)) < len(parts):
            raise ValueError("name each part once")
        return parts
