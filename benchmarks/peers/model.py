"""A text model made from config (nothing is loaded from a hub) and a workload for it."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from benchmarks.peers.workload import Workload, draw_lengths
from bimode.models.template import CHAT_TEMPLATE
from bimode.models.tiny_llava import WORDS, build_tokenizer
from bimode.renderer import Renderer

VOCAB = 8192
WIDTH = 256
MAX_POSITIONS = 1024


def write_model(path: Path) -> int:
    """A Qwen3 of 7 M parameters that never ends a response by itself; returns its number of
    parameters.
    """
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    config = Qwen3Config(
        vocab_size=VOCAB,
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        initializer_range=0.04,
    )
    model = Qwen3ForCausalLM(config)
    with torch.no_grad():
        # Forced lengths need a model that does not stop. All embeddings share a component that no
        # layer writes to and the last norm turns up; that of the end is opposed to it.
        embedding = model.get_input_embeddings().weight
        embedding[:, 0] = 0.3
        embedding[tokenizer.eos_token_id, 0] = -10.0
        model.model.norm.weight[0] = 8.0
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[0] = layer.mlp.down_proj.weight[0] = 0.0
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return model.num_parameters()


def draw_workload(model: Path, *, prompts: int, group: int, seed: int = 0) -> Workload:
    """`prompts` questions of 12 to 48 words, `group` completions each, lengths as `draw_lengths`
    says, rewards of 0 and 1.
    """
    dice = random.Random(seed)
    renderer = Renderer(model)
    words = [w for w in WORDS if w.strip()]
    questions = [" ".join(dice.choices(words, k=dice.randint(12, 48))) for _ in range(prompts)]
    lengths = draw_lengths(prompts, group, dice)
    first = len(renderer.tokenizer)  # ids above the words: no response holds a special token
    return Workload(
        group=group,
        questions=tuple(questions),
        prompt_texts=tuple(renderer.prompt_text(q, 0) for q in questions),
        prompt_ids=tuple(renderer.encode_prompt(q, ()) for q in questions),
        lengths=lengths,
        responses=tuple(tuple(dice.randrange(first, VOCAB) for _ in range(n)) for n in lengths),
        rewards=tuple(float(dice.random() < 0.5) for _ in lengths),
    )
