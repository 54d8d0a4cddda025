"""`[curate.mix]` of the recipe: which of the train questions that are left are taken."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, field_validator, model_validator

from bimode.config.common import ConfigModel, Share


class MixConfig(ConfigModel):
    """Topic and reasoning shares of the train questions, as in R-4B's Table 1 (arXiv 2508.21113):
    33.6 % of its rows reason.
    """

    rows: int = Field(
        0,
        ge=0,
        description="questions in all; 0 = as many as the scarcest topic, and mode of it, allows",
    )
    by: Literal["task", "domain"] = Field("task", description="the column whose values are topics")
    topics: dict[str, Share] = Field(
        {},
        description=(
            "share of the questions, e.g. { chart = 0.15, math = 0.23 }; all others together get"
            " the rest of 1"
        ),
    )
    reasoning: Share | None = Field(
        None,
        description=(
            "share of each topic's rows that reason; a question in both formats is two rows; none:"
            " as it comes"
        ),
    )
    reasoning_by_topic: dict[str, Share] = Field(
        {}, description="the same for some of `topics`, e.g. { chart = 0.45 }"
    )

    @field_validator("topics")
    @classmethod
    def _within_one(cls, topics: dict[str, float]) -> dict[str, float]:
        if (total := math.fsum(topics.values())) > 1 + 1e-9:
            raise ValueError(
                f"shares add to {total:g}; make them 1 or less, the rest is for all other topics"
            )
        if "" in topics:
            raise ValueError("a topic has a name; all other topics get the rest of 1")
        return topics

    @model_validator(mode="after")
    def _topics_are_named(self) -> MixConfig:
        if unknown := sorted(self.reasoning_by_topic.keys() - self.topics.keys()):
            raise ValueError(
                f"reasoning_by_topic names {', '.join(unknown)}; give each a share in `topics` too"
            )
        return self
