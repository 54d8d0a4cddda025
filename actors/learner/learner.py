"""The learner: samples and a loss in, an updated policy out. The same class trains in annealing and
in BPO.

Consumes `TrainingSample`s and a loss function; packs them, runs micro-batches through an engine
(`actors.learner.engines`) and exports weights under the names of the model's own checkpoint. It
never learns which algorithm made the advantages.
"""

from __future__ import annotations

import io
import math
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from actors.learner import distributed
from actors.learner.engines import build_engine, learning_rate, named_tensors
from bimode.config.common import LearnerConfig, OptimConfig
from bimode.errors import DivergedError
from bimode.learner.packing import PackedBatch, pack, plan_micro_batches, share_prompts, tree_tokens
from bimode.learner.policy import Policy
from bimode.modes import Mode
from bimode.records import TrainingSample
from bimode.renderer import Renderer, as_saved, load_model, save_model
from bimode.rl.loss import LossFn, LossInputs
from bimode.rl.metrics import decision_values, engine_values, token_sums
from bimode.storage.checkpoints import partial_path, publish
from bimode.storage.weights import SharedArray, WeightBucket, as_array, into_buckets, share

Vision = tuple[tuple[str, Tensor], ...]


class ImageCache:
    """Calls `encode` for the images of a prompt, and keeps at most `limit` bytes of its newest
    results.
    """

    def __init__(self, encode: Callable[[Sequence[bytes]], Vision], limit: int) -> None:
        self._encode, self._limit, self._bytes = encode, limit, 0
        self._kept: dict[tuple[bytes, ...], Vision] = {}

    def __call__(self, images: tuple[bytes, ...]) -> Vision:
        found = self._kept.pop(images, None)
        if found is None:
            found = self._encode(images)
            self._bytes += _size(found)
        self._kept[images] = found  # the newest is the last
        while self._bytes > self._limit and len(self._kept) > 1:
            self._bytes -= _size(self._kept.pop(next(iter(self._kept))))
        return found


def _size(vision: Vision) -> int:
    return sum(tensor.nbytes for _, tensor in vision)


class Reference:
    """The model in `model_dir`, whole on every rank. With `offload` it lives on the host between
    the steps.
    """

    def __init__(
        self, model_dir: Path, dtype: torch.dtype, *, head_chunk: int, offload: bool
    ) -> None:
        self.policy = Policy(load_model(model_dir, dtype), head_chunk).eval().requires_grad_(False)
        self.home = torch.device("cpu") if offload else distributed.device()
        self.policy.to(self.home)

    @torch.no_grad()
    def logprobs(self, batches: Iterable[PackedBatch]) -> list[Tensor]:
        """Return log-probabilities [N] of each batch's response tokens, on this rank's device; the
        model moves there and back once.
        """
        self.policy.to(distributed.device())
        found = [self.policy(batch)[0] for batch in batches]
        self.policy.to(self.home)
        return found


# of processed images kept: the rollouts of a prompt, and the prompts of a few steps, share theirs;
# one picture of a million pixels is 25 to 90 MB
CACHED_BYTES = 2 << 30
CHECKPOINTS_KEPT = 2


@dataclass(frozen=True, slots=True)
class StepInfo:
    """One optimizer step: `step` counts from 1, `grad_norm` is before clipping."""

    step: int
    lr: float
    grad_norm: float


@dataclass(frozen=True, slots=True)
class LearnerSpec:
    """The model and the settings of a learner, the same on every rank.

    `total_steps` is the length of the learning rate's schedule; `with_reference` keeps a frozen
    copy of the model for the KL term.
    """

    model_dir: Path
    config: LearnerConfig
    optim: OptimConfig
    total_steps: int
    dtype: str
    seed: int = 0
    with_reference: bool = False


class Learner:
    """One rank of a learner group. Methods are collective: every rank calls each of them, in the
    same order.
    """

    def __init__(self, spec: LearnerSpec) -> None:
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()
        torch.manual_seed(spec.seed)
        config = spec.config
        self.config, self.optim, self.total_steps = config, spec.optim, spec.total_steps
        self.step = 0
        self.renderer = Renderer(spec.model_dir)
        self.encode_images = ImageCache(self.renderer.encode_images, CACHED_BYTES)
        precision = getattr(torch, spec.dtype)
        held = torch.float32 if config.engine == "torch" else precision
        self.model = load_model(spec.model_dir, held)
        if config.gradient_checkpointing:
            self.model.gradient_checkpointing_enable(
                gradient_checkpointing_kwargs={"use_reentrant": False}
            )
        self.buckets = into_buckets(
            [(name, tensor.nbytes) for name, tensor in named_tensors(self.model)]
        )
        policy = Policy(self.model, config.head_chunk).train()
        self.engine = build_engine(policy, config, spec.optim, precision)
        self.reference: Reference | None = None
        if spec.with_reference:
            self.reference = Reference(
                spec.model_dir,
                precision,
                head_chunk=config.head_chunk,
                offload=config.reference_offload,
            )
        self.filler = self._make_filler()
        self.loss_is_finite = True

    def forward_backward(
        self,
        samples: Sequence[TrainingSample],
        loss: LossFn,
        *,
        num_tokens: float,
        labels: Sequence[str] = (),
    ) -> dict[str, float]:
        """Add the gradient of `loss` over this rank's `samples`; return sums over them.

        `num_tokens` is the denominator of the whole batch, over ALL ranks. The result holds
        ``loss`` and the sums of `bimode.rl.metrics`, with `labels` (one word a sample) by
        label too. Ranks may hold unequally many samples, or none: they run equally many
        micro-batches, the spare ones on a weightless filler.
        """
        batches = self._plan(samples)
        batches += [[] for _ in range(distributed.all_max(len(batches)) - len(batches))]
        references: Sequence[Tensor | None] = [None] * len(batches)
        if self.reference is not None:
            references = self.reference.logprobs(self._pack(samples, trees) for trees in batches)
        names = sorted(set(labels)) or [""]
        sums: Counter[str] = Counter()
        for trees, reference_N in zip(batches, references, strict=True):
            batch = self._pack(samples, trees)
            value, values = self._micro_batch(batch, loss, num_tokens, reference_N)
            index = [names.index(labels[i]) if labels else 0 for tree in trees for i in tree]
            label_N = torch.tensor([*index, len(names)], device=batch.sample_N.device)[
                batch.sample_N
            ]  # the filler is last
            sums.update({"loss": value, **token_sums(values, label_N, names)})
        return dict(sums)

    def optim_step(self) -> StepInfo:
        """Update with the gradient gathered since the last update. Raises DivergedError on every
        rank, and moves nothing, if a loss of any rank or the gradient's norm is not finite.
        """
        bad = distributed.all_sum([0.0 if self.loss_is_finite else 1.0])[0]
        if bad:
            raise DivergedError(
                f"the loss of step {self.step + 1} is not finite on {bad:.0f} rank(s): nothing was"
                " updated"
            )
        lr = learning_rate(self.step, self.total_steps, self.optim)
        norm = self.engine.step(lr)
        self.step += 1
        return StepInfo(step=self.step, lr=lr, grad_norm=norm)

    def share(self) -> bool:
        """Make the weights readable in place by other processes of this machine, if possible; not
        collective.

        It is not where the checkpoint's layout is another, as that of experts is: parts of it would
        be copies.
        """
        if not share(tensor for _, tensor in named_tensors(self.model)):
            return False
        weights = (
            tensor for index in range(len(self.buckets)) for tensor in self._weights(index).values()
        )
        return all(SharedArray.of(tensor) is not None for tensor in weights)

    def export_bucket(self, version: int, index: int, share: bool = False) -> WeightBucket:
        """Return bucket `index` of the weights (`buckets`) as host arrays (`as_array`) under the
        names of the model's checkpoint.

        Good until the next update; without arrays on ranks other than 0. `share`: says where they
        lie, if `share` has made that possible, and a reader must be through before the next update.
        """
        weights = self._weights(index)
        bucket = WeightBucket.of(
            version, tuple(weights), [as_array(tensor) for tensor in weights.values()]
        )
        places = [
            place
            for tensor in weights.values()
            if share and (place := SharedArray.of(tensor)) is not None
        ]
        return bucket.share(places) if places and len(places) == len(weights) else bucket

    def save(self, path: Path) -> None:
        """Write a checkpoint (`bimode.storage.checkpoints.checkpoint_path`) that `restore`
        continues from exactly.

        It appears in one piece; of the checkpoints beside it the last two stay.
        """
        partial = self._start_partial(path)
        self.engine.save(partial)
        state = {"step": self.step, "rng": torch.get_rng_state()}
        if torch.cuda.is_available():
            state["cuda_rng"] = torch.cuda.get_rng_state()
        torch.save(state, partial / f"learner-rank{distributed.rank()}.pt")
        self._publish(path, CHECKPOINTS_KEPT)

    def restore(self, path: Path) -> None:
        """Continue from what `save` wrote, with as many ranks."""
        self.engine.restore(path)
        state = torch.load(path / f"learner-rank{distributed.rank()}.pt", weights_only=True)
        self.step = int(state["step"])
        torch.set_rng_state(state["rng"])
        if torch.cuda.is_available():
            torch.cuda.set_rng_state(state["cuda_rng"])

    def save_model(self, path: Path) -> None:
        """Write a plain Hugging Face directory: safetensors, processor or tokenizer, chat template,
        generation config.
        """
        partial = self._start_partial(path)
        weights = self.engine.weights({name for bucket in self.buckets for name in bucket})
        if distributed.rank() == 0:
            save_model(
                self.model, partial, {name: _apart(tensor) for name, tensor in weights.items()}
            )
            self.renderer.processor.save_pretrained(partial)
        self._publish(path, None)

    def _micro_batch(
        self, batch: PackedBatch, loss: LossFn, num_tokens: float, reference_N: Tensor | None
    ) -> tuple[float, dict[str, Tensor]]:
        """Run forward and backward; return the loss and the token values."""
        logprobs_N, entropy_N = self.engine.forward(batch)
        out = loss(
            LossInputs(
                logprobs_N=logprobs_N,
                entropy_N=entropy_N,
                behavior_logprobs_N=batch.behavior_logprobs_N,
                reference_logprobs_N=reference_N,
                advantages_N=batch.advantages_N,
                loss_mask_N=batch.loss_mask_N,
            ),
            num_tokens,
        )
        value = float(out.loss.detach())
        self.loss_is_finite &= math.isfinite(value)
        self.engine.backward(out.loss)
        engine = engine_values(batch, logprobs_N, self.step)
        return value, out.values | decision_values(batch, logprobs_N, entropy_N) | engine

    def _plan(self, samples: Sequence[TrainingSample]) -> list[list[list[int]]]:
        """Return micro-batches of trees of sample indices."""
        trees = share_prompts(samples, self.config.micro_tokens)
        lengths = [tree_tokens([samples[i] for i in tree]) for tree in trees]
        plan = plan_micro_batches(lengths, self.config.micro_tokens)
        return [[trees[k] for k in indices] for indices in plan]

    def _pack(self, samples: Sequence[TrainingSample], trees: list[list[int]]) -> PackedBatch:
        """Packs a micro-batch; the filler goes along where it would be empty or would leave the
        vision tower without work (ZeRO reduces a gradient only when every rank has one).
        """
        parts = [[samples[i] for i in tree] for tree in trees]
        if not parts or (self.filler.images and not any(part[0].images for part in parts)):
            parts.append([self.filler])
        vision = [self.encode_images(part[0].images) for part in parts]
        batch = pack(parts, vision, self.renderer.family, self.model.model)
        return batch.to(distributed.device())

    def _make_filler(self) -> TrainingSample:
        """Make a sequence without weight, with an image if the model sees images."""
        images: tuple[bytes, ...] = ()
        if self.renderer.kind == "image_text":
            buffer = io.BytesIO()
            Image.new("RGB", (64, 64)).save(buffer, format="PNG")
            images = (buffer.getvalue(),)
        return TrainingSample(
            prompt_ids=self.renderer.encode_prompt("", images),
            token_ids_T=(self.renderer.eos_id,),
            loss_mask_T=(0.0,),
            advantages_T=(0.0,),
            behavior_logprobs_T=(math.nan,),
            images=images,
            mode=Mode.AUTO,
            origin="",
            versions_T=(0,),
        )

    def _weights(self, index: int) -> dict[str, Tensor]:
        weights = self.engine.weights(set(self.buckets[index]))
        return as_saved(self.model, weights) if weights else {}

    def _start_partial(self, path: Path) -> Path:
        partial = partial_path(path)
        if distributed.rank() == 0:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        distributed.barrier()
        return partial

    def _publish(self, path: Path, keep: int | None) -> None:
        distributed.barrier()
        if distributed.rank() == 0:
            publish(path, keep)
        distributed.barrier()


def _apart(tensor: Tensor) -> Tensor:
    """The same memory, without the storage around it: of tensors that share one transformers makes
    copies to save them.
    """
    flat = tensor.reshape(-1).view(torch.uint8).numpy()
    return torch.from_numpy(flat).view(tensor.dtype).view(tensor.shape)
