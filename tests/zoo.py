"""Tiny random models of many architectures, made in process: what a loaded model may be like inside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

LENGTH = 2048


def randomise(model: Any, seed: int = 0, std: float = 0.35) -> Any:
    """Weights large enough for logits some units apart, so that greedy ids do not hang on rounding."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0.0, std, generator=generator)
            elif "norm" not in name and "ln_" not in name:
                parameter.normal_(0.0, 0.1, generator=generator)
    return model.eval()


def build(name: str, tokenizer: Any, **changes: Any) -> Any:
    """The architecture ``name`` of :data:`ZOO`, with weights of its own; ``changes`` go into its configuration."""
    import transformers

    family, settings = ZOO[name]
    config_class = f"{family}TextConfig" if hasattr(transformers, f"{family}TextConfig") else f"{family}Config"
    shape = SHAPES.get(family, _usual)(tokenizer)
    special = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": 0}
    values = {"vocab_size": len(tokenizer), **shape, **special, **settings, **changes}
    values = {key: value(len(tokenizer)) if callable(value) else value for key, value in values.items()}
    model = getattr(transformers, f"{family}ForCausalLM", None) or getattr(transformers, f"{family}LMHeadModel")
    made = randomise(model(getattr(transformers, config_class)(**values)))
    made.generation_config.eos_token_id = tokenizer.eos_token_id
    return made


def _usual(tokenizer: Any) -> dict[str, Any]:
    return {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": LENGTH,
    }


SHAPES: dict[str, Callable[[Any], dict[str, Any]]] = {
    "Mpt": lambda _: {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": LENGTH},
    "Bloom": lambda _: {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "Falcon": lambda _: {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
    "GPT2": lambda _: {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": LENGTH},
    "GPTNeo": lambda _: {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "max_position_embeddings": LENGTH},
}

_LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [1.0, 3.0, 9.0, 27.0],
    "original_max_position_embeddings": 64,
}
_MIXED = ["sliding_attention", "full_attention"]
_MLA = {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
}

ZOO: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {"head_dim": 8}),
    "gemma2": ("Gemma2", {"head_dim": 8, "sliding_window": 16}),
    "gemma3": ("Gemma3", {"head_dim": 8, "sliding_window": 16, "layer_types": _MIXED}),
    "mistral": ("Mistral", {"sliding_window": 16}),
    "phi3": (
        "Phi3",
        {"original_max_position_embeddings": 64, "rope_parameters": _LONGROPE, "max_position_embeddings": 4096},
    ),
    "mpt": ("Mpt", {}),
    "gpt_neo": ("GPTNeo", {"attention_types": [[["global", "local"], 1]], "window_size": 16}),
    "falcon_alibi": ("Falcon", {"alibi": True, "new_decoder_architecture": False, "multi_query": True}),
    "bloom": ("Bloom", {}),
    "olmo2": ("Olmo2", {}),
    "gpt_oss": (
        "GptOss",
        {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 16, "layer_types": _MIXED},
    ),
    "deepseek_v2": ("DeepseekV2", {**_MLA, "n_shared_experts": 1, "head_dim": 8}),
    "cohere2": ("Cohere2", {"head_dim": 8, "sliding_window": 16, "layer_types": _MIXED}),
    "gpt2": ("GPT2", {}),
    "neox": ("GPTNeoX", {}),
    "lfm2": ("Lfm2", {"layer_types": ["conv", "full_attention"]}),
    "minimax": (
        "MiniMax",
        {"head_dim": 8, "num_local_experts": 2, "layer_types": ["linear_attention", "full_attention"]},
    ),
    "deepseek_v32": ("DeepseekV32", {**_MLA, "index_topk": 8, "index_head_dim": 16, "index_n_heads": 8}),
    "gemma3n": (
        "Gemma3n",
        {
            "num_hidden_layers": 4,
            "head_dim": 8,
            "sliding_window": 16,
            "num_kv_shared_layers": 2,
            "laurel_rank": 4,
            "hidden_size_per_layer_input": 8,
            "vocab_size_per_layer_input": lambda n: n,
            "layer_types": _MIXED * 2,
            "activation_sparsity_pattern": [0.0] * 4,
            "altup_num_inputs": 2,
        },
    ),
    "gemma4": (
        "Gemma4",
        {
            "sliding_window": 16,
            "layer_types": _MIXED,
            "vocab_size_per_layer_input": lambda n: n,
            "hidden_size_per_layer_input": 8,
            "num_kv_shared_layers": 0,
        },
    ),
    "llama4": (
        "Llama4",
        {
            "num_hidden_layers": 4,
            "head_dim": 8,
            "intermediate_size_mlp": 64,
            "num_local_experts": 2,
            "attention_chunk_size": 16,
            "no_rope_layers": [1, 1, 1, 0],
            "attn_temperature_tuning": True,
            "floor_scale": 8,
            "attn_scale": 0.5,
        },
    ),
    "mamba": ("Mamba", {"state_size": 4}),
    "glm4": ("Glm4", {"head_dim": 8}),
    "granite": ("Granite", {"logits_scaling": 8.0, "embedding_multiplier": 12.0, "residual_multiplier": 0.22}),
    "phi": ("Phi", {}),
    "qwen3_moe": (
        "Qwen3Moe",
        {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    ),
    "deepseek_v3": ("DeepseekV3", {**_MLA, "n_shared_experts": 1}),
    "bamba": (
        "Bamba",
        {"attn_layer_indices": [1], "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_chunk_size": 8},
    ),
    "deepseek_v4": (
        "DeepseekV4",
        {
            **_MLA,
            "head_dim": 8,
            "num_key_value_heads": 2,
            "o_groups": 1,
            "o_lora_rank": 16,
            "layer_types": ["heavily_compressed_attention", "compressed_sparse_attention"],
            "mlp_layer_types": ["hash_moe", "moe"],
            "sliding_window": 16,
            "index_topk": 8,
            "index_head_dim": 16,
            "index_n_heads": 1,
            "num_nextn_predict_layers": 0,
        },
    ),
}
"""By name: the family as transformers spells it, and what its configuration needs beyond the usual shape."""


def _siglip() -> dict[str, Any]:
    return {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 8,
        "patch_size": 4,
    }


def _qwen_vision() -> dict[str, Any]:
    shape = {"depth": 2, "hidden_size": 16, "intermediate_size": 16, "out_hidden_size": 32, "num_heads": 2}
    return {**shape, "patch_size": 4, "spatial_merge_size": 1, "temporal_patch_size": 1, "fullatt_block_indexes": [0]}


_MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
_VISION_IDS = {"video_token_id": 6, "vision_start_token_id": 7, "vision_end_token_id": 8}

WRAPPERS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "gemma3": (
        "Gemma3",
        {"sliding_window": 16, "layer_types": _MIXED},
        {"vision_config": _siglip(), "mm_tokens_per_image": 4, "boi_token_index": 6, "eoi_token_index": 7},
    ),
    "mistral3": ("Mistral3", {"model_type": "mistral"}, {"vision_config": {"model_type": "pixtral", **_siglip()}}),
    "llava": (
        "Llava",
        {"model_type": "llama"},
        {"vision_config": {"model_type": "clip_vision_model", **_siglip(), "projection_dim": 16}},
    ),
    "qwen2_5_vl": (
        "Qwen2_5_VL",
        {"rope_parameters": _MROPE},
        {"vision_config": {**_qwen_vision(), "window_size": 8}, "image_token_id": 5, **_VISION_IDS},
    ),
    "llama4": (
        "Llama4",
        {k: v for k, v in ZOO["llama4"][1].items() if k != "num_hidden_layers"} | {"num_hidden_layers": 4},
        {
            "vision_config": {
                **_siglip(),
                "vision_output_dim": 16,
                "projector_input_dim": 16,
                "projector_output_dim": 16,
            },
            "boi_token_index": 6,
            "eoi_token_index": 7,
        },
    ),
}
"""Models around a model of text: the family, and what the configurations of text and of the whole need."""


def build_wrapper(name: str, tokenizer: Any) -> Any:
    """The model ``name`` of :data:`WRAPPERS`, images and all, with weights of its own."""
    import transformers

    family, text, whole = WRAPPERS[name]
    special = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": 0}
    text = {"vocab_size": len(tokenizer), **_usual(tokenizer), "head_dim": 8, **special, **text}
    config = getattr(transformers, f"{family}Config")(text_config=text, **({"image_token_index": 5} | whole))
    made = randomise(getattr(transformers, f"{family}ForConditionalGeneration")(config))
    made.generation_config.eos_token_id = tokenizer.eos_token_id
    return made
