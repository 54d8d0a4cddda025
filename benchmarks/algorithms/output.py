"""The table, as Markdown, and the picture: auto mode's accuracy against its tokens, one curve a
variant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path

import numpy as np

from benchmarks.algorithms.scores import Estimate, Scores
from pipelines.report.plots import read_metrics

HEADER = (
    "| from one checkpoint | seeds | rollout tokens | direct / auto / thinking | tokens | thinks"
    " easy / mid / hard | gap recovery | saving recovery | saving over annealed | accuracy over"
    " annealed | H_acc | random / question router"
    " |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n"
)
SMOOTH = 20  # steps of a curve's running mean: each step draws other questions


def markdown(lines: Sequence[Scores]) -> str:
    """One row a variant."""
    return HEADER + "".join(_row(line) for line in lines)


def _row(s: Scores) -> str:
    cells = [
        s.name,
        str(s.seeds),
        f"{s.rollout_tokens / 1e3:,.0f} k" if s.rollout_tokens else "-",
        f"{s.direct:.3f} / {s.auto:.3f} / {s.thinking:.3f}",
        f"{s.tokens:.1f}",
        " / ".join(f"{100 * t:.0f} %" for t in s.think),
        _cell(s.gap),
        _cell(s.saving),
        _cell(s.gain_saving, sign="+"),
        _cell(s.gain_accuracy, sign="+"),
        f"{s.h_acc:.2f}",
        f"{s.random_router:.3f} / {s.question_router:.3f}",
    ]
    return f"| {' | '.join(cells)} |\n"


def _cell(e: Estimate, sign: str = "") -> str:
    seeds = (
        f"; seeds {min(e.seeds):{sign}.2f} to {max(e.seeds):{sign}.2f}" if len(e.seeds) > 1 else ""
    )
    return f"{e.mean:{sign}.2f} [{e.low:{sign}.2f}, {e.high:{sign}.2f}{seeds}]"


def draw(runs: Mapping[str, Sequence[Path]], lines: Sequence[Scores], path: Path) -> None:
    """Curves from the first seed's training (sampled, expected auto mode), stars from the greedy
    evaluation.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(9.5, 5.5))
    colors = plt.get_cmap("tab10" if len(runs) <= 10 else "tab20").colors
    scores = {line.name: line for line in lines}
    for color, (name, folders) in zip(cycle(colors), runs.items(), strict=False):
        steps = [
            s["auto"] for s in read_metrics(folders[0] / "bpo" / "metrics.jsonl") if "auto" in s
        ]
        window = np.ones(SMOOTH) / SMOOTH
        if len(steps) >= SMOOTH:
            curve = [
                np.convolve([s[key] for s in steps], window, "valid")
                for key in ("tokens", "accuracy")
            ]
            axes.plot(*curve, color=color, lw=1, alpha=0.6)
        axes.plot(scores[name].tokens, scores[name].auto, "*", ms=13, color=color, label=name)
    start = scores["annealed"]
    axes.plot(start.tokens, start.auto, "ko", ms=8, label="annealed")
    axes.set(xlabel="tokens after <think>, auto mode", ylabel="accuracy, auto mode")
    axes.set_title(
        "curves: sampled, in training; stars: greedy, held-out sources", fontsize=9, loc="left"
    )
    axes.grid(alpha=0.2)
    axes.legend(frameon=False, fontsize=8, bbox_to_anchor=(1.0, 1.0), loc="upper left")
    figure.savefig(path, dpi=150, bbox_inches="tight")
    plt.close(figure)
