"""A rollout worker: leases of requests in, completions with versions and log-probabilities out; new weights between two slices.

A plain class around one in-process vLLM engine; the fleet makes it remote. vLLM is imported in the constructor. Work is done in
slices (`advance`), so that whoever drives the worker hears from it all the time, and weights land between two slices while
responses are under way: each token carries the version that drew it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.engine_types import EnginePrompt, EngineSampling
from bimode.codec import Codec
from bimode.errors import (
    ConfigError,
    CorruptWeightsError,
    LearnerLostError,
    StaleWeightsError,
    under,
)
from bimode.pictures import open_picture
from bimode.records import Completion, GenerationRequest, Prompt
from bimode.shared_memory import machine
from bimode.weights import WeightBucket


class RolloutWorker:
    """Generates for one policy version at a time.

    `sync` is how weights arrive: `object_store` (buckets through `receive`), or `nccl` / `ipc`, where the
    learner's `actors.weight_sender` drives the verbs `init_transfer` to `finish_update`. Raises ConfigError for a
    model of neither kind, and for a `sync` that needs a GPU where there is none.
    """

    def __init__(self, name: str, model_dir: Path, *, max_model_len: int, dtype: str, seed: int, sync: str) -> None:
        self.name = name
        self.codec = self.open_codec(Path(model_dir))
        self._stop_id = self.codec.eos_id  # loads the tokenizer, which takes seconds, before the first lease
        self.max_model_len = max_model_len
        self._version = 0
        self._begun: dict[int, _Begun] = {}
        self._expected: dict[WeightBucket, tuple[WeightBucket, Future[None]]] = {}
        self._samples: dict[str, Any] = {}  # of prompts that have ended, while others of their lease have not
        self._checker = ThreadPoolExecutor(1, "checker")  # hashing leaves the interpreter to others
        self._engine = self.open_engine(Path(model_dir), dtype, seed, sync)

    def open_codec(self, model_dir: Path) -> Any:
        """The model's own; benchmarks that simulate generation put another in its place, as for the engine."""
        return Codec(model_dir)

    def open_engine(self, model_dir: Path, dtype: str, seed: int, sync: str) -> Any:
        """vLLM."""
        from actors.vllm_engine import VllmEngine

        return VllmEngine(model_dir, kind=self.codec.kind, max_model_len=self.max_model_len, dtype=dtype, seed=seed, sync=sync)

    def machine(self) -> str:
        """Where it runs, as `bimode.shared_memory.machine` names it."""
        return machine()

    def version(self) -> int:
        """The policy version that is live; 0 is the model in the directory."""
        return self._version

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Completion]:
        """`begin` and `advance` until it is done, on a worker with nothing else under way."""
        self.begin(0, requests)
        while not (done := self.advance(float("inf"))):
            pass
        return done[0]

    def refusal(self, request: GenerationRequest) -> str:
        """Why `begin` would raise for it; empty if it would not."""
        try:
            self._prompt(request.prompt, self._forced(request))
        except (ConfigError, OSError) as error:
            return str(error)
        return ""

    def begin(self, lease: int, requests: Sequence[GenerationRequest], forget: bool = False) -> None:
        """Takes a lease in, beside those under way; `advance` will give `n` completions for each of its requests.

        `forget`: without what earlier leases have left in the caches, so that the last bits do not depend on them.

        `max_tokens` counts from ``<think>`` on, forced tokens included, so that modes compare. Log-probabilities are
        the model's own (temperature 1), the quantity that `bimode.policy` computes. Equal requests in equal leases give
        equal samples. Raises ConfigError for a prompt or a limit that leaves no room.
        """
        prompts, sampling = [], []
        for r in requests:
            forced = self._forced(r)
            prompts.append(self._prompt(r.prompt, forced))
            sampling.append(
                EngineSampling(
                    n=r.n,
                    temperature=r.temperature,
                    max_tokens=r.max_tokens - len(forced),
                    seed=_stream(r) + r.first,
                    stop_id=self._stop_id,
                    banned_ids=self.codec.placeholder_ids,
                    repetition_penalty=r.repetition_penalty,
                    choices=r.choices,
                )
            )
        if forget:
            self.reset_caches()
        keys = self._engine.begin(prompts, sampling)
        self._begun[lease] = _Begun(tuple(requests), keys, set(keys), self._version)

    def advance(self, seconds: float) -> dict[int, list[Completion]]:
        """Generates until a lease is done, or for `seconds`; completions by lease: requests in order, then samples."""
        until = time.monotonic() + seconds
        while self._begun:
            for key, samples in self._engine.step():
                self._samples[key] = samples
                for begun in self._begun.values():
                    begun.waiting.discard(key)
            if done := [lease for lease, begun in self._begun.items() if not begun.waiting]:
                return {lease: self._completions(self._begun.pop(lease)) for lease in done}
            if time.monotonic() >= until:
                break
        return {}

    def _completions(self, begun: _Begun) -> list[Completion]:
        drawn = zip(begun.requests, [self._samples.pop(key) for key in begun.keys], strict=True)
        return [self._completion(r, sample, begun.version) for r, samples in drawn for sample in samples]

    def load_weights(self, whole: WeightBucket) -> int:
        """Makes all weights of a version live at once and returns the version. Raises as `receive` and `verify`, and
        StaleWeightsError if a newer one is live already."""
        if whole.version < self._version:
            raise StaleWeightsError(f"{self.name} holds version {self._version}, was sent {whole.version}")
        _check(whole)
        self._transfer(whole)
        self.reset_caches()
        return self._version

    def _transfer(self, whole: WeightBucket) -> None:
        self.start_update()
        self.receive(whole)
        self.verify(whole.version)
        self._engine.finish_update(whole.version)
        self._version = whole.version

    def reset_caches(self) -> None:
        """vLLM's `finish` clears neither the prefix nor the encoder cache, and both answer with the old weights."""
        self.reset_prefix_cache()
        self.reset_encoder_cache()

    def reset_prefix_cache(self) -> None:
        self._engine.reset_prefix_cache()

    def reset_encoder_cache(self) -> None:
        self._engine.reset_encoder_cache()

    # ---- a weight update in phases: `actors.weight_sync` calls them in this order, or, for `nccl` and `ipc`, the sender ----

    def init_transfer(self, init_info: dict[str, Any]) -> None:
        """`nccl`, `ipc`: joins the learner's group; blocks until the learner joins too."""
        self._engine.init_transfer(init_info)

    def start_update(self) -> None:
        """From here until `finish_update` nothing may be generated: the weights are a mixture."""
        self._received: list[int] = []
        self._engine.start_update()

    def update(self, update_info: dict[str, Any]) -> None:
        """`nccl`, `ipc`: receives one chunk from the learner; blocks until it has arrived."""
        self._engine.update(update_info)

    def expect(self, bucket: WeightBucket) -> None:
        """One part is looked at and checked, if it is lent, while generation goes on; it is still to be received."""
        for old in [other for other in self._expected if other.version != bucket.version]:
            self._expected.pop(old)[1].cancel()
        if bucket.lent:
            self._expected[bucket] = self._arrive(bucket)

    def receive(self, *buckets: WeightBucket) -> int:
        """Loads some parts, each checked meanwhile; how many. Raises CorruptWeightsError, with none of them live, if one was
        damaged, and LearnerLostError if it was lent by who is gone."""
        for sent in buckets:
            bucket, check = self._expected.pop(sent) if sent.lent and sent in self._expected else self._arrive(sent)
            self._engine.update({"names": bucket.names, "arrays": bucket.arrays})
            check.result()
            self._received.append(bucket.checksum)
        return len(buckets)

    def _arrive(self, bucket: WeightBucket) -> tuple[WeightBucket, Future[None]]:
        try:
            bucket = self.arrived(bucket.arrived())
        except FileNotFoundError:
            raise LearnerLostError(f"the learner died while it lent its weights of version {bucket.version}") from None
        except OSError as error:
            raise CorruptWeightsError(f"the weights of version {bucket.version} cannot be read: {error}") from None
        return bucket, self._checker.submit(_check, bucket)

    def arrived(self, bucket: WeightBucket) -> WeightBucket:
        """What the transport has made of a bucket; fault drills do damage here."""
        return bucket

    def verify(self, version: int) -> list[int]:
        """Checksums of what has been received for `version`, in order. Raises ValueError if a parameter was left out: the weights
        are a mixture then, and nothing may be generated before a whole version has been loaded."""
        if missing := self._engine.missing_parameters():
            self._engine.finish_update(self._version)  # or no other update could begin
            raise ValueError(f"version {version} left out {len(missing)} parameters, among them {missing[:3]}")
        return self._received

    def finish_update(self, version: int) -> int:
        """Makes what was received live as `version`, resets the caches, and returns the version."""
        self._engine.finish_update(version)
        self._version = version
        self.reset_caches()
        return version

    def _forced(self, request: GenerationRequest) -> tuple[int, ...]:
        forced = self.codec.tokens.trigger(request.mode)[1:]
        if request.max_tokens <= len(forced):
            raise ConfigError("max_tokens", request.max_tokens, f"{request.mode} alone takes {len(forced)}; raise it")
        return forced

    def _prompt(self, prompt: Prompt, tail: tuple[int, ...]) -> Any:
        """The prompt up to ``<think>`` and then `tail`, as the engine takes it."""
        with under(f"prompt {prompt.id}"):
            expanded = self.codec.encode_prompt(prompt.question, prompt.images) + tail
            images = tuple(open_picture(data) for data in prompt.images)
        if len(expanded) >= self.max_model_len:
            fix = f"prompt {prompt.id} alone has {len(expanded)} tokens; raise it"
            raise ConfigError("model.max_model_len", self.max_model_len, fix)
        return EnginePrompt(
            token_ids=self.codec.encode_unexpanded(prompt.question, len(prompt.images)) + tail,
            expanded_ids=expanded,
            images=images,
        )

    def _completion(self, request: GenerationRequest, sample: Any, version: int) -> Completion:
        forced = self._forced(request)
        ids = forced + sample.token_ids
        return Completion(
            prompt_id=request.prompt.id,
            mode=request.mode,
            prompt_ids=self.codec.encode_prompt(request.prompt.question, request.prompt.images),
            token_ids_T=ids,
            num_forced=len(forced),
            logprobs_T=(float("nan"),) * len(forced) + sample.logprobs,
            versions_T=(version,) * len(forced) + sample.versions,
            text=self.codec.decode_response(ids),
            finished=sample.stopped,
            worker=self.name,
        )


@dataclass(frozen=True, slots=True)
class _Begun:
    """A lease under way: what was asked, the engine's keys in the same order, those that have not ended, and the version that its
    forced tokens carry."""

    requests: tuple[GenerationRequest, ...]
    keys: list[str]
    waiting: set[str]
    version: int


def _check(bucket: WeightBucket) -> None:
    if not bucket.is_whole():
        raise CorruptWeightsError(f"the weights of version {bucket.version} have arrived damaged")


def _stream(request: GenerationRequest) -> int:
    """The engine's seed: sample i draws from `seed + i`, so requests must be far apart, also under one recipe seed."""
    key = f"{request.seed}/{request.mode}/{request.prompt.id}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=7).digest(), "big")
