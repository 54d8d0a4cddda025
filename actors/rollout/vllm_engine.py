"""The wrapper of vLLM: every call into its API is in this file (written for 0.32).

The engine runs inside this process (`VLLM_ENABLE_V1_MULTIPROCESSING=0`, see cluster.environment):
it starts fast, and host arrays reach its worker without a copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from actors.devices import check_compiler, on_gpu
from bimode.errors import ConfigError, RefusedPromptError
from bimode.inputs.prompt_limits import PromptLimits
from bimode.models.import_without_gc import import_without_gc
from bimode.records import EnginePrompt, EngineSample, EngineSampling
from bimode.renderer import Renderer

GPUS = "cluster.rollout_gpus"
# tokens; small enough that prompts of a few dozen tokens share prefixes (vLLM's default on CPU is
# 128)
KV_BLOCK = 32
# of the device's memory; with ipc a learner is on it too
GPU_SHARE, GPU_SHARE_IPC = 0.85, 0.4
# transports that vLLM's own engines receive; `actors.weights.receiver` receives all others
COLLECTIVE = ("nccl", "ipc")


def keep_images() -> None:
    """Keep the pixels of prompts: vLLM 0.32 drops them for a prompt whose prefix is cached, and
    misses them when new weights make it start again.
    """
    from vllm.v1.core.sched import output

    output.strip_covered_mm_data = lambda features, *_, **__: features


class VllmEngine:
    """One in-process vLLM engine, at weight version 0.

    Raises ConfigError if `sync` needs a GPU and there is none; as `on_gpu`; as `check_compiler`.
    """

    def __init__(
        self,
        model_dir: Path,
        *,
        limits: PromptLimits,
        dtype: str,
        seed: int,
        sync: str,
    ) -> None:
        gpu = on_gpu(GPUS)
        if gpu:
            check_compiler(GPUS)
        if sync in COLLECTIVE and not gpu:
            raise ConfigError(
                "bpo.sync", sync, "moves weights between GPUs; use object_store where there is none"
            )
        backend = sync if sync in COLLECTIVE else "object_store"
        LLM = import_without_gc("vllm.entrypoints.llm").LLM
        from vllm.config import WeightTransferConfig

        keep_images()
        memory: AbstractContextManager[None] = nullcontext()
        if not gpu:
            from actors.cpu_memory import engine_memory

            memory = engine_memory()
        with memory:
            self._llm = LLM(
                str(model_dir),
                trust_remote_code=False,
                load_format="safetensors",
                dtype=dtype,
                seed=seed,
                max_model_len=limits.max_model_len,
                max_num_seqs=256,
                block_size=KV_BLOCK,
                # on CPU the environment bounds the cache instead
                gpu_memory_utilization=GPU_SHARE_IPC if sync == "ipc" else GPU_SHARE,
                enforce_eager=not gpu,
                # a seeded request whose prefill is cut in two kills a CPU engine ("CPU Generator
                # does not use offset")
                enable_chunked_prefill=gpu,
                max_num_batched_tokens=max(8192, limits.max_model_len),
                **Renderer(model_dir).family.engine_options(limits.max_images),
                logprobs_mode="raw_logprobs",
                weight_transfer_config=WeightTransferConfig(backend=backend),
                worker_extension_cls="actors.weights.receiver.WorkerExtension",
            )
        # prompts under way, as the learner will see them
        self._expanded: dict[str, tuple[int, ...]] = {}
        if backend == "object_store":
            self.init_transfer({})
        self._llm.update_weight_version("0")

    def begin(
        self, prompts: Sequence[EnginePrompt], sampling: Sequence[EngineSampling]
    ) -> list[str]:
        """Add prompts to the running ones; return a key for each.

        Raises RefusedPromptError, with none of them taken in, if vLLM does not take one of them.
        """
        from vllm import SamplingParams
        from vllm.exceptions import VLLMClientError
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        params = [
            SamplingParams(
                n=s.n,
                temperature=s.temperature,
                max_tokens=s.max_tokens,
                seed=s.seed,
                logprobs=0,
                flat_logprobs=True,
                stop_token_ids=[s.stop_id],
                ignore_eos=True,
                detokenize=False,
                output_kind=RequestOutputKind.FINAL_ONLY,
                logit_bias=dict.fromkeys(s.banned_ids, -100.0) or None,
                repetition_penalty=s.repetition_penalty,
                structured_outputs=(
                    StructuredOutputsParams(choice=list(s.choices)) if s.choices else None
                ),
            )
            for s in sampling
        ]
        inputs: list[Any] = []
        for p in prompts:
            images = {"multi_modal_data": {"image": list(p.images)}} if p.images else {}
            inputs.append({"prompt_token_ids": list(p.token_ids), **images})
        try:
            internal = self._llm.enqueue(inputs, params, use_tqdm=False)
        except (VLLMClientError, ValueError) as error:
            why = str(error).partition("\n")[0]
            raise RefusedPromptError("prompt", "rollout_failed", why) from error
        keys = [
            key.rpartition("-")[0] for key in internal
        ]  # vLLM appends what its outputs do not show
        self._expanded |= zip(keys, (p.expanded_ids for p in prompts), strict=True)
        return keys

    def step(self) -> list[tuple[str, list[EngineSample]]]:
        """Take one engine step; weights may change between two of them. Returns the keys and
        samples of prompts that finished. Raises ValueError if vLLM expanded a prompt to other ids
        than the learner will see.
        """
        outputs = [out for out in self._llm.llm_engine.step() if out.finished]
        for out in outputs:
            if (expanded := self._expanded.pop(out.request_id)) != tuple(out.prompt_token_ids):
                raise ValueError(
                    f"vLLM made {out.prompt_token_ids} of a prompt, the learner {expanded}"
                )
        return [(out.request_id, [_sample(o) for o in out.outputs]) for out in outputs]

    # ---- weight updates: vLLM's four phases, and the caches they leave stale ----

    def init_transfer(self, init_info: dict[str, Any]) -> None:
        """Join the group of the weight transport; `init_info` comes from vLLM's trainer engine."""
        self._llm.init_weight_transfer_engine({"init_info": init_info})

    def start_update(self) -> None:
        self._llm.start_weight_update()

    def update(self, update_info: dict[str, Any]) -> None:
        """Load one chunk of weights; `update_info` is the transport's own."""
        self._llm.update_weights({"update_info": update_info})

    def missing_parameters(self) -> list[str]:
        """Return the parameters that the running update has not brought; none with `nccl` and
        `ipc`, whose engines do not say.
        """
        return list(self._llm.collective_rpc("missing_parameters")[0])

    def finish_update(self, version: int) -> None:
        """Make the new weights live: tokens carry `version` from here on."""
        self._llm.finish_weight_update(str(version))

    def reset_prefix_cache(self) -> None:
        """Drop cached keys and values, which came from the old weights; running prompts compute
        theirs again.
        """
        self._llm.reset_prefix_cache(reset_running_requests=True)

    def reset_encoder_cache(self) -> None:
        """Drop cached image embeddings, which came from the old weights."""
        self._llm.llm_engine.reset_encoder_cache()


def _sample(output: Any) -> EngineSample:
    ids = tuple(output.token_ids)
    versions = tuple(
        int(span.version) for span in output.weight_versions for _ in range(span.start, span.end)
    )
    return EngineSample(
        ids, tuple(output.logprobs.logprobs), versions, output.finish_reason == "stop"
    )
