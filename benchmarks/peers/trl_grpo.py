"""TRL's side of the benchmarks: its GRPOTrainer as it stands, in an interpreter that need not have
bimode.

python -m benchmarks.peers.trl_grpo learner FOLDER    given responses: forward, backward, step
python -m benchmarks.peers.trl_grpo step FOLDER       whole steps, generation by Hugging Face

Its defaults but for: float32, loss "grpo", and no gradient checkpointing, which would cost TRL a
second forward pass and which ours does not do either.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers.talk import Answer, Line
from benchmarks.peers.workload import MICRO_BATCH, Workload


def new_trainer(folder: Path, work: Workload, **options: Any) -> Any:
    """A GRPOTrainer on the folder's model; a step takes all prompts of the workload."""
    warnings.simplefilter("ignore")
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    def reward(completions: list[str], **_: Any) -> list[float]:
        return list(work.rewards[: len(completions)])

    args = GRPOConfig(
        output_dir=str(folder / "trl"),
        use_cpu=True,
        bf16=False,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        seed=0,
        max_steps=1_000_000,
        learning_rate=1e-6,
        lr_scheduler_type="constant",
        beta=0.0,
        loss_type="grpo",
        scale_rewards="group",
        num_generations=work.group,
        per_device_train_batch_size=MICRO_BATCH,
        gradient_accumulation_steps=len(work.lengths) // MICRO_BATCH,
        max_completion_length=max(work.lengths),
        gradient_checkpointing=False,
        shuffle_dataset=False,
    )
    return GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32),
        reward_funcs=reward,
        args=args,
        train_dataset=Dataset.from_dict({"prompt": list(work.prompt_texts)}),
        processing_class=AutoTokenizer.from_pretrained(folder / "model", padding_side="left"),
        **options,
    )


def learner(folder: Path, line: Line) -> None:
    """TRL pads, scores and cuts the batch once, outside the clock; each verb is one update on
    it.
    """
    from safetensors.torch import save_file

    work = Workload.load(folder)

    def given(prompts: list[str], trainer: Any) -> dict[str, Any]:
        ids = [list(work.prompt_ids[i // work.group]) for i in range(len(prompts))]
        return {
            "prompt_ids": ids,
            "completion_ids": [list(r) for r in work.responses],
            "logprobs": None,
        }

    trainer = new_trainer(folder, work, rollout_func=given)
    model, accumulate = trainer.model, trainer.args.gradient_accumulation_steps
    trainer.create_optimizer()
    model.train()
    trainer.current_gradient_accumulation_steps = accumulate
    trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    micro_batches = trainer._buffered_inputs
    assert (
        sum(int(m["completion_mask"].sum() + m["prompt_mask"].sum()) for m in micro_batches)
        == work.tokens
    )
    line.on_event(Answer())
    while verb := line.next():
        start = time.perf_counter()
        for micro_batch in micro_batches:
            trainer.accelerator.backward(trainer.compute_loss(model, micro_batch))
        if verb == "gradients":
            save_file(
                {n: p.grad.clone() for n, p in model.named_parameters()}, folder / "trl.safetensors"
            )
        trainer.accelerator.clip_grad_norm_(model.parameters(), trainer.args.max_grad_norm)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()
        line.on_event(Answer(time.perf_counter() - start, work.tokens))


def step(folder: Path, line: Line) -> None:
    """`train()`, held up before each step until the benchmark asks for it; lengths are forced on
    its `generate`.
    """
    from transformers import LogitsProcessor, LogitsProcessorList, TrainerCallback

    work = Workload.load(folder)
    seconds: dict[str, float] = {}

    class Lengths(LogitsProcessor):
        """Ends each row at its length; the model does not end one by itself."""

        def __init__(self, eos: int) -> None:
            self.eos, self.sampled, self.lengths_B = eos, 0, torch.tensor(work.lengths)

        def __call__(self, ids: torch.Tensor, scores_BV: torch.Tensor) -> torch.Tensor:
            self.sampled += 1
            ends_B = self.lengths_B == self.sampled
            if ends_B.any():
                scores_BV[ends_B] = -torch.inf
                scores_BV[ends_B, self.eos] = 0.0
            return scores_BV

    class Gate(TrainerCallback):
        """A step begins with the fetching of its batch, which is nothing; generation is inside."""

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if not line.next():
                sys.exit()
            seconds["begin"] = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            whole = time.perf_counter() - seconds["begin"]
            line.on_event(
                Answer(
                    whole,
                    work.tokens,
                    {"generate": seconds["generate"], "learn": whole - seconds["generate"]},
                )
            )

    trainer = new_trainer(folder, work, callbacks=[Gate()])
    generate = trainer.model.generate

    def timed(*args: Any, **options: Any) -> Any:
        start = time.perf_counter()
        force = LogitsProcessorList([Lengths(trainer.processing_class.eos_token_id)])
        out = generate(*args, logits_processor=force, **options)
        seconds["generate"] = time.perf_counter() - start
        return out

    trainer.model.generate = timed
    line.on_event(Answer())
    trainer.train()


def main(verb: str, folder: Path) -> None:
    sides: dict[str, Callable[[Path, Line], None]] = {"learner": learner, "step": step}
    sides[verb](folder, Line())


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
