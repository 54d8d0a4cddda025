"""The result of an evaluation in a few plain lines, which end a command."""

from __future__ import annotations

from pathlib import Path

from bimode.report import number, percent
from bimode.storage.run_dir import read_json
from pipelines.report.page import mode_name, think_rates
from pipelines.report.results import read_results


def print_summary(stage: Path) -> None:
    """Print the summary of the evaluation in the folder `stage` on stdout."""
    for line in summary(stage):
        print(line, flush=True)


def summary(stage: Path) -> list[str]:
    """Return the closing lines of an evaluation: accuracy, tokens and think rates of the last
    model, and the page's path. Empty if `stage` has no report.
    """
    report = read_json(stage / "report.json")
    if report is None:
        return []
    name, model = list(report["models"].items())[-1]
    accuracy, tokens = [], []
    for mode, numbers in model["overall"].items():
        accuracy.append(f"{mode_name(mode)} {percent(numbers['accuracy'])}")
        tokens.append(f"{mode_name(mode)} {number(numbers['tokens_mean'], 1)}")
    lines = [
        f"{name}, accuracy on {report['data']['n']} questions: {', '.join(accuracy)}",
        f"tokens a response: {', '.join(tokens)}",
    ]
    if "auto" in model["overall"]:
        rates = think_rates(read_results(stage / "results" / f"{name}.jsonl"))
        rates = rates or {"all": model["overall"]["auto"]["think_rate"]}
        shares = [f"{level} {percent(rate)}" for level, rate in rates.items()]
        lines.append(f"thinks on {', '.join(shares)}")
    return [*lines, f"page: {stage / 'report.html'}"]
