"""What an evaluation came to in a few plain lines, which end a command: for whoever watched it, and
for logs.
"""

from __future__ import annotations

from pathlib import Path

from bimode.modes import Mode
from bimode.storage.run_dir import read_json
from pipelines.report.page import number, percent, think_rates
from pipelines.report.results import read_results

WORDS = {
    Mode.NON_THINKING.value: "direct",
    Mode.AUTO.value: "auto",
    Mode.THINKING.value: "thinking",
}


def summary(stage: Path) -> list[str]:
    """Of the last model in the report of the folder `stage`: accuracy, tokens, where it thinks, the
    page; none without one.
    """
    report = read_json(stage / "report.json")
    if report is None:
        return []
    name, model = list(report["models"].items())[-1]
    at = {WORDS[mode]: numbers for mode, numbers in model["overall"].items()}
    right = ", ".join(f"{word} {percent(numbers['accuracy'])}" for word, numbers in at.items())
    tokens = ", ".join(
        f"{word} {number(numbers['tokens_mean'], 1)}" for word, numbers in at.items()
    )
    lines = [
        f"{name}, right of {report['data']['n']} questions: {right}",
        f"tokens a response: {tokens}",
    ]
    if "auto" in at:
        rates = think_rates(read_results(stage / "results" / f"{name}.jsonl")) or {
            "all": at["auto"]["think_rate"]
        }
        lines.append(
            "thinks on " + ", ".join(f"{level} {percent(rate)}" for level, rate in rates.items())
        )
    return [*lines, f"page: {stage / 'report.html'}"]
