"""All stages of a recipe in order; a stage whose inputs and config are unchanged is skipped.

python -m pipelines.run pipelines/recipes/smoke.toml --out /abs/dir
"""

from __future__ import annotations

if __name__ == "__main__":
    from pipelines import main

    main("run")
