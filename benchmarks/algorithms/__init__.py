"""Every algorithm from one annealed checkpoint, under equal rollout tokens: one table and one
picture.

python -m benchmarks.algorithms runs/full pipelines/recipes/tiny-full.toml --out runs/algorithms
--seeds 0,1,2
"""

from pathlib import Path

VARIANTS = Path(__file__).with_name("variants.toml")
