"""Step: a whole synchronous GRPO step, ours (vLLM, packed learner, weights moved) against TRL with
Hugging Face generation.

Generation, log-probabilities, loss, backward, optimizer step and, ours, the new weights in the
engine. Same model (Qwen3, 7 M parameters, float32), prompts, number and lengths of completions:
half of each group ends early, the other thinks. Ours is one rollout worker and one learner, Ray
actors that take turns; memory counts all of Ray's processes. Not timed: loading, and the first step
of each side (warm-up).
"""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.peers.command import Options, run, start
from benchmarks.peers.compare import alternate, compared, show
from benchmarks.peers.talk import Answer

PROMPTS, GROUP = 3, 16  # the workload of learner.py
WARM_UP = 1  # steps
GOAL = 5.0


def benchmark(options: Options, folder: Path) -> None:
    """Sets up, warms up, times, reports."""
    from benchmarks.peers.model import draw_workload, write_model

    parameters = write_model(folder / "model")
    work = draw_workload(folder / "model", prompts=PROMPTS, group=GROUP)
    work.save(folder)
    ours = start(
        "ours", "benchmarks.peers.our_step", [str(folder), str(options.threads)], options, folder
    )
    peer = start("TRL", "benchmarks.peers.trl_grpo", ["step", str(folder)], options, folder)
    try:
        for side in (ours, peer):
            side.answer()
        alternate(ours, peer, WARM_UP)
        runs = alternate(ours, peer, options.rounds)
        rates = tuple([60 / a.seconds for a in side] for side in runs)
        peaks = ours.peaks_mib()
        result = compared(
            "step", GOAL, "steps/min", (rates[0], rates[1]), (ours, peer), options.threads
        )
    finally:
        ours.close()
        peer.close()
    notes = [
        (
            f"{parameters / 1e6:.1f} M parameters, float32, {options.threads} thread(s) a process,"
            f" {options.rounds} rounds after {WARM_UP} of warm-up"
        ),
        (
            f"{PROMPTS} prompts x {GROUP} completions of {min(work.lengths)} to {max(work.lengths)}"
            " tokens"
        ),
        f"seconds a step, medians: ours {parts(runs[0])}; TRL {parts(runs[1])}",
        f"memory of our processes, MiB: {', '.join(f'{mib:.0f}' for mib in peaks)}",
    ]
    show(result, notes)


def parts(answers: list[Answer]) -> str:
    """The medians of each part of a step, to read."""
    return ", ".join(
        f"{name} {median(a.parts[name] for a in answers):.2f}" for name in answers[0].parts
    )


if __name__ == "__main__":
    run((__doc__ or "").splitlines()[0], 3, benchmark)
