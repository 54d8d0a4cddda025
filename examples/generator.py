"""An own generator of questions, in text; `images` would hold encoded pictures.

[[curate.sources]]
generator = "examples.generator:draw"
"""

import random

from bimode import Sample

LIMITS = {"easy": 10, "mid": 50, "hard": 100}


def draw(index: int, split: str, seed: int, weights: tuple[float, float, float]) -> Sample:
    """Draw question `index` of `split`; equal arguments give equal samples."""
    random_ = random.Random(f"{seed} {split} {index}")
    level = random_.choices(list(LIMITS), weights)[0]
    a, b = (random_.randrange(LIMITS[level]) for _ in range(2))
    return Sample(
        id=f"gap-{split}-{index}",
        question=f"{max(a, b)} - {min(a, b)} = ?",
        images=(),
        answer=str(abs(a - b)),
        trace=f"the larger is {max(a, b)} so {max(a, b)} - {min(a, b)} = {abs(a - b)}",
        transcription="",
        verifier="int",
        verifier_args="{}",
        guess_rate=1 / LIMITS[level],
        task="gap",
        domain="arithmetic",
        level=level,
        difficulty="{}",
        split=split,
        source="examples/gap",
        source_license="CC0-1.0",
        source_refs=(f"gap/{split}/{index}",),
    )
