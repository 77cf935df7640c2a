"""Tiny checkpoints that say what they are told to, phrase by phrase: for thoughts, whose ids must be known exactly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chat_styles import Style, build_tokenizer

OPENS_A_THOUGHT = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n' }}{% endif %}"
)
THINKER = Style(OPENS_A_THOUGHT, ("<|im_start|>", "<|im_end|>"), ("<think>", "</think>"))

REFUSAL = "I can't help with that."
ANSWER = ("First, gather the materials.", " Then lay them out.", " Then put them together.", " Then rest.")
WEIGHING = (REFUSAL, " Or can I?", " The user has a hobby.", " I may go on.", " So I will.", " Now then.")
NEUTRAL = ("The user asks how.", " The rules say no.", " So I decline.")


def save_sayer(
    folder: Path, phrases: Sequence[str], style: Style = THINKER, last: str = "\n", context: int = 256
) -> Path:
    """A model that says ``phrases`` after a prompt that ends in the token of ``last``, each of them one token.

    A phrase is written once: each token has one that follows it. The last one is said again and again.
    """
    import torch
    from tokenizers import AddedToken
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer: Any = build_tokenizer(style)
    vocabulary = tokenizer.get_vocab()
    tokenizer.add_tokens([AddedToken(p, normalized=False) for p in phrases if p not in vocabulary])
    said = [tokenizer.convert_tokens_to_ids(phrase) for phrase in phrases]
    assert len(set(said)) == len(said), "a phrase stands there twice"
    first = tokenizer(last, add_special_tokens=False)["input_ids"][-1]
    size = len(tokenizer)
    width = -(-size // 4) * 4
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=size,
            hidden_size=width,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            num_key_value_heads=1,
            max_position_embeddings=context,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=tokenizer.convert_tokens_to_ids(style.markers[1]),
        )
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0 if parameter.ndim == 1 else 0.0)
        model.model.embed_tokens.weight[:, :size] = torch.eye(size)
        for token, following in zip([first, *said], [*said, said[-1]], strict=True):
            model.lm_head.weight[following, token] = 1.0
        # The output row of a flag is never that of an untrained token.
        model.lm_head.weight[tokenizer.convert_tokens_to_ids("<rf>"), width - 1] = 0.5
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
