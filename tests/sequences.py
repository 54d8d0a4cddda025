"""Training sequences for tests: real questions of the digit family, and text-only ones."""

from __future__ import annotations

import math

from bimode.modes import Mode, render_response
from bimode.records import TrainingSample
from bimode.renderer import Renderer
from data_curation.demo.digits import digit_strip


def supervised(
    renderer: Renderer, count: int, *, images: bool = True, first: int = 0
) -> list[TrainingSample]:
    """`count` supervised samples, thinking and non-thinking by turns, so that lengths differ."""
    samples = []
    for i in range(first, first + count):
        source = digit_strip(i, "train", 0, (1, 1, 1))
        pictures = source.images if images else ()
        mode = Mode.THINKING if i % 2 else Mode.NON_THINKING
        tokens = renderer.encode_response(render_response(mode, source.trace, source.answer))
        samples.append(
            TrainingSample(
                prompt_ids=renderer.encode_prompt(source.question, pictures),
                token_ids_T=tokens,
                loss_mask_T=tuple(0.5 if t % 5 == 0 else 1.0 for t in range(len(tokens))),
                advantages_T=(1.0,) * len(tokens),
                behavior_logprobs_T=(math.nan,) * len(tokens),
                images=pictures,
                mode=mode,
                origin=source.id,
                versions_T=(0,) * len(tokens),
            )
        )
    return samples


def loss_tokens(samples: list[TrainingSample]) -> float:
    """The denominator of a batch."""
    return sum(sum(sample.loss_mask_T) for sample in samples)
