"""A rollout worker: leases of requests in, completions with versions and log-probabilities out; new
weights between two slices.

A plain class around one in-process vLLM engine; the fleet makes it remote. vLLM is imported in the
constructor. Work is done in slices (`advance`), so that the driver gets a report from it all
the time, and weights land between two slices while responses are under way: each token carries the
version that drew it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bimode.errors import (
    ConfigError,
    CorruptWeightsError,
    LearnerLostError,
    RefusedPromptError,
    StaleWeightsError,
)
from bimode.inputs.pictures import open_picture
from bimode.inputs.prompt_limits import PromptLimits
from bimode.records import (
    Completion,
    EnginePrompt,
    EngineSampling,
    GenerationRequest,
    GenerationResult,
    Prompt,
)
from bimode.renderer import Renderer
from bimode.storage.weights import WeightBucket, machine


class RolloutWorker:
    """Generates for one policy version at a time. `sync` is how weights arrive: in buckets through
    `receive`, or, with `nccl` and `ipc`, from the learner's `actors.weights.sender` through
    `init_transfer` and `update`.

    `sync` is how weights arrive: in buckets through `receive`, or, with `nccl` and `ipc`, from the
    learner's `actors.weights.sender` through `init_transfer` and `update`.
    Raises ConfigError for a model of neither kind, and for a `sync` that needs a GPU where there is
    none.
    """

    def __init__(
        self, name: str, model_dir: Path, *, max_model_len: int, dtype: str, seed: int, sync: str
    ) -> None:
        self.name = name
        self.renderer = self.open_codec(Path(model_dir))
        self._stop_id = (
            self.renderer.eos_id
        )  # loads the tokenizer, which takes seconds, before the first lease
        self.limits = PromptLimits.of(self.renderer, max_model_len)
        self._version = 0
        self._begun: dict[int, _Begun] = {}
        self._expected: dict[WeightBucket, tuple[WeightBucket, Future[None]]] = {}
        self._samples: dict[
            str, Any
        ] = {}  # of prompts that have ended, while others of their lease have not
        self._checker = ThreadPoolExecutor(1, "checker")  # hashing leaves the interpreter to others
        self._engine = self.open_engine(Path(model_dir), dtype, seed, sync)

    def open_codec(self, model_dir: Path) -> Any:
        """Make the renderer of the model; benchmarks that simulate generation replace it, as they
        replace the engine.
        """
        return Renderer(model_dir)

    def open_engine(self, model_dir: Path, dtype: str, seed: int, sync: str) -> Any:
        """Make the vLLM engine."""
        from actors.rollout.vllm_engine import VllmEngine

        return VllmEngine(model_dir, limits=self.limits, dtype=dtype, seed=seed, sync=sync)

    def machine(self) -> str:
        """Return where the worker runs, as `bimode.storage.weights.machine` names it."""
        return machine()

    def version(self) -> int:
        """Return the live policy version; 0 is the model in the directory."""
        return self._version

    def generate(self, requests: Sequence[GenerationRequest]) -> list[GenerationResult]:
        """Run `begin` and `advance` until the requests are done, on a worker with nothing else
        running.
        """
        self.begin(0, requests)
        while not (done := self.advance(float("inf"))):
            pass
        return done[0]

    def begin(
        self, lease: int, requests: Sequence[GenerationRequest], forget: bool = False
    ) -> None:
        """Takes a lease in, beside those under way; `advance` gives a result for each of its
        requests.

        `forget`: without what earlier leases have left in the caches, so that the last bits do not
        depend on them.

        `max_tokens` counts from ``<think>`` on, forced tokens included, so that modes compare.
        Log-probabilities are the model's own (temperature 1), the quantity that
        `bimode.learner.policy` computes. Equal requests in equal leases give equal samples. Raises
        ConfigError for a `max_tokens` that leaves no room; a prompt that the engine does not take
        costs the requests for it and nothing else.
        """
        encoded, refused = self._encode_all(requests)
        sampling = [self._sampling(request) for request in requests]
        if forget:
            self.reset_caches()
        keys, refused_by_engine = self._enqueue(requests, encoded, sampling)
        self._begun[lease] = _Begun(
            requests=tuple(requests),
            prompt_ids={prompt: encoded[prompt].expanded_ids for prompt in encoded},
            refused=refused | refused_by_engine,
            keys=keys,
            waiting=set(keys.values()),
            version=self._version,
        )

    def _encode_all(
        self, requests: Sequence[GenerationRequest]
    ) -> tuple[dict[Prompt, EnginePrompt], dict[Prompt, str]]:
        """Encode each prompt once, as the engine takes it in auto mode; return also why it refuses
        the others.
        """
        encoded: dict[Prompt, EnginePrompt] = {}
        refused: dict[Prompt, str] = {}
        for prompt in dict.fromkeys(request.prompt for request in requests):
            try:
                encoded[prompt] = self._encode(prompt)
            except RefusedPromptError as error:
                refused[prompt] = error.detail
        return encoded, refused

    def _encode(self, prompt: Prompt) -> EnginePrompt:
        """Encode the prompt up to and with ``<think>``. Raises RefusedPromptError."""
        if prompt.refused:
            raise RefusedPromptError("prompt", "refused", prompt.refused)
        self.limits.check_images(len(prompt.images))
        images = tuple(open_picture(data) for data in prompt.images)
        try:
            expanded = self.renderer.encode_prompt(prompt.question, prompt.images)
        except RefusedPromptError:
            raise
        except ValueError as error:  # a processor, of a picture that it cannot take
            why = str(error).partition("\n")[0]
            raise RefusedPromptError("prompt", "rollout_failed", why) from None
        self.limits.check_tokens(len(expanded))
        unexpanded = self.renderer.encode_unexpanded(prompt.question, len(prompt.images))
        return EnginePrompt(unexpanded, expanded, images)

    def _sampling(self, request: GenerationRequest) -> EngineSampling:
        return EngineSampling(
            n=request.n,
            temperature=request.temperature,
            max_tokens=request.max_tokens - len(self._forced(request)),
            seed=_stream(request) + request.first,
            stop_id=self._stop_id,
            banned_ids=self.renderer.placeholder_ids,
            repetition_penalty=request.repetition_penalty,
            choices=request.choices,
        )

    def _enqueue(
        self,
        requests: Sequence[GenerationRequest],
        encoded: Mapping[Prompt, EnginePrompt],
        sampling: Sequence[EngineSampling],
    ) -> tuple[dict[int, str], dict[Prompt, str]]:
        """Hand requests to the engine; return its keys by place in `requests`, and why it refused a
        prompt.
        """

        def enqueue(places: Sequence[int]) -> dict[int, str]:
            if not places:
                return {}
            prompts = []
            for place in places:
                request = requests[place]
                prompts.append(encoded[request.prompt].followed_by(self._forced(request)))
            keys = self._engine.begin(prompts, [sampling[place] for place in places])
            return dict(zip(places, keys, strict=True))

        places = [at for at, request in enumerate(requests) if request.prompt in encoded]
        try:
            return enqueue(places), {}
        except RefusedPromptError:  # of one of them; prompt by prompt shows which
            pass
        keys: dict[int, str] = {}
        refused: dict[Prompt, str] = {}
        for prompt in encoded:
            try:
                keys |= enqueue([at for at in places if requests[at].prompt == prompt])
            except RefusedPromptError as error:
                refused[prompt] = error.detail
        return keys, refused

    def advance(self, seconds: float) -> dict[int, list[GenerationResult]]:
        """Generate until a lease is done, or for `seconds`; return the results of finished leases,
        in the order of their requests.
        """
        until = time.monotonic() + seconds
        done = self._done()
        while self._begun and not done:
            for key, samples in self._engine.step():
                self._samples[key] = samples
                for begun in self._begun.values():
                    begun.waiting.discard(key)
            done = self._done()
            if time.monotonic() >= until:
                break
        return {lease: self._results(self._begun.pop(lease)) for lease in done}

    def _done(self) -> list[int]:
        return [lease for lease, begun in self._begun.items() if not begun.waiting]

    def _results(self, begun: _Begun) -> list[GenerationResult]:
        results = []
        for at, request in enumerate(begun.requests):
            prompt = request.prompt
            if prompt in begun.refused:
                results.append(GenerationResult((), begun.refused[prompt]))
                continue
            ids = begun.prompt_ids[prompt]
            samples = self._samples.pop(begun.keys[at])
            completions = [self._completion(request, ids, each, begun.version) for each in samples]
            results.append(GenerationResult(tuple(completions)))
        return results

    def load_weights(self, whole: WeightBucket) -> int:
        """Load a whole version, make it live and return it. Raises as `receive` and `verify`, and
        StaleWeightsError if a newer one is live.
        """
        if whole.version < self._version:
            raise StaleWeightsError(
                f"{self.name} holds version {self._version}, was sent {whole.version}"
            )
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
        """Clear the prefix cache and the encoder cache, which would answer with the old weights;
        vLLM's `finish` clears neither.
        """
        self.reset_prefix_cache()
        self.reset_encoder_cache()

    def reset_prefix_cache(self) -> None:
        self._engine.reset_prefix_cache()

    def reset_encoder_cache(self) -> None:
        self._engine.reset_encoder_cache()

    # ---- a weight update in phases: `actors.weights.update` calls `start_update`, `verify` and
    # `finish_update`; in between, a transport delivers the weights ----

    def init_transfer(self, init_info: dict[str, Any]) -> None:
        """Join the learner's group (`nccl`, `ipc`); blocks until the learner joins too."""
        self._engine.init_transfer(init_info)

    def start_update(self) -> None:
        """Begin a weight update. Nothing may be generated until `finish_update`: the weights are a
        mixture.
        """
        self._received: list[int] = []
        self._engine.start_update()

    def update(self, update_info: dict[str, Any]) -> None:
        """Receive one chunk from the learner (`nccl`, `ipc`); blocks until it has arrived."""
        self._engine.update(update_info)

    def prefetch(self, bucket: WeightBucket) -> None:
        """Verify one bucket, if it is in shared memory, while generation goes on; it is still
        to be received.
        """
        for old in [other for other in self._expected if other.version != bucket.version]:
            self._expected.pop(old)[1].cancel()
        if bucket.shared:
            self._expected[bucket] = self._arrive(bucket)

    def receive(self, *buckets: WeightBucket) -> int:
        """Load buckets, each verified first; return how many. Raises CorruptWeightsError, with none
        of them live, if one was damaged, and LearnerLostError if its learner is gone.
        """
        for sent in buckets:
            bucket, check = (
                self._expected.pop(sent)
                if sent.shared and sent in self._expected
                else self._arrive(sent)
            )
            self._engine.update({"names": bucket.names, "arrays": bucket.arrays})
            check.result()
            self._received.append(bucket.checksum)
        return len(buckets)

    def _arrive(self, bucket: WeightBucket) -> tuple[WeightBucket, Future[None]]:
        try:
            bucket = self.load(bucket.load())
        except FileNotFoundError:
            raise LearnerLostError(
                f"the learner died while workers read its weights of version {bucket.version}"
            ) from None
        except OSError as error:
            raise CorruptWeightsError(
                f"the weights of version {bucket.version} cannot be read: {error}"
            ) from None
        return bucket, self._checker.submit(_check, bucket)

    def load(self, bucket: WeightBucket) -> WeightBucket:
        """Return the bucket that a transport's message stands for; fault drills damage it here."""
        return bucket

    def verify(self, version: int) -> list[int]:
        """Return the checksums of what was received for `version`, in order. Raises ValueError if a
        parameter is missing: the weights are a mixture then, and nothing may be generated before a
        whole version has been loaded.
        """
        if missing := self._engine.missing_parameters():
            self._engine.finish_update(self._version)  # or no other update could begin
            raise ValueError(
                f"version {version} left out {len(missing)} parameters, among them {missing[:3]}"
            )
        return self._received

    def finish_update(self, version: int) -> int:
        """Make the received weights live as `version`, reset the caches, and return the version."""
        self._engine.finish_update(version)
        self._version = version
        self.reset_caches()
        return version

    def _forced(self, request: GenerationRequest) -> tuple[int, ...]:
        forced = self.renderer.tokens.trigger(request.mode)[1:]
        if request.max_tokens <= len(forced):
            raise ConfigError(
                "max_tokens",
                request.max_tokens,
                f"{request.mode} alone takes {len(forced)}; raise it",
            )
        return forced

    def _completion(
        self, request: GenerationRequest, prompt_ids: tuple[int, ...], sample: Any, version: int
    ) -> Completion:
        forced = self._forced(request)
        ids = forced + sample.token_ids
        return Completion(
            prompt_id=request.prompt.id,
            mode=request.mode,
            prompt_ids=prompt_ids,
            token_ids_T=ids,
            num_forced=len(forced),
            logprobs_T=(float("nan"),) * len(forced) + sample.logprobs,
            versions_T=(version,) * len(forced) + sample.versions,
            text=self.renderer.decode_response(ids),
            finished=sample.stopped,
            worker=self.name,
        )


@dataclass(frozen=True, slots=True)
class _Begun:
    """A running lease. `version` is that of its forced tokens."""

    requests: tuple[GenerationRequest, ...]
    prompt_ids: Mapping[Prompt, tuple[int, ...]]  # as the learner sees them
    refused: Mapping[Prompt, str]  # why the engine does not take a prompt
    keys: Mapping[int, str]  # the engine's, by place in `requests`
    waiting: set[str]  # those of them that have not ended
    version: int


def _check(bucket: WeightBucket) -> None:
    if not bucket.checksum_ok():
        raise CorruptWeightsError(f"the weights of version {bucket.version} have arrived damaged")


def _stream(request: GenerationRequest) -> int:
    """Return the engine's seed of a request. Sample i draws from `seed + i`, so requests must be
    far apart, also under one recipe seed.
    """
    key = f"{request.seed}/{request.mode}/{request.prompt.id}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=7).digest(), "big")
