"""A tiny random checkpoint of every causal class of transformers: its own default configuration, shrunk by names."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from zoo import randomise

LENGTH = 2048
MOST_PARAMETERS = 20_000_000

SIZES: Mapping[int, str] = {
    32: "hidden_size d_model n_embd emb_dim embedding_dim embedding_size word_embed_proj_dim lru_width dim embed_dim "
    "input_embedding_size output_embedding_size attention_hidden_size adapter_in_dim adapter_out_dim "
    "base_channels hidden_size_global adapter_input_size router_hidden_size hidden_size_per_layer_input laurel_rank",
    64: "*intermediate_size* *ff_dim *ffn_dim d_ff dff dim_ff d_inner feed_forward_size *ffn_hidden_size mamba_d_ssm",
    2: "num_hidden_layers n_layer n_layers num_layers ??coder_layers num_??coder_layers num_blocks depth kv_n_heads "
    "num_key_value_heads num_kv_heads swa_num_key_value_heads linear_num_key_heads num_query_groups index_topk_blocks "
    "num_experts_per_tok num_experts_per_token moe_topk moe_k moe_top_k",
    1: "n_layers_per_attn_res_block num_layers_per_stack attn_layer_period num_mem_blocks n_group num_expert_group "
    "topk_group n_groups mamba_n_groups mamba_ngroups o_groups first_k_dense_replace num_dense_layers "
    "moe_layer_start_index",
    4: "num_attention_heads n_head n_heads num_heads attention_heads ??coder_attention_heads linear_num_heads "
    "num_??coder_attention_heads swa_num_attention_heads linear_num_value_heads num_experts num_local_experts "
    "n_routed_experts moe_num_experts zero_expert_num mamba_n_heads mamba_num_heads time_step_rank mamba_dt_rank",
    8: "head_dim swa_head_dim attention_head_size d_kv d_head dim_head kv_channels v_head_dim qk_nope_head_dim "
    "qk_rope_head_dim linear_key_head_dim linear_value_head_dim linear_head_dim rotary_dim index_n_heads index_topk "
    "index_block_size floor_scale log_scaling_n_floor chunk_size mamba_chunk_size *_chunk_length block_size "
    "mamba_d_state state_size ssm_state_size",
    16: "index_head_dim *_rank d_rel sliding_window sliding_window_size window_size local_attention rel_extent "
    "attention_window_size attention_chunk_size local_attention_window_len mamba_d_head mamba_headdim mamba_head_dim",
    0: "num_kv_shared_layers num_nextn_predict_layers",
    LENGTH: "max_position_embeddings n_positions n_ctx max_seq_len context_length max_target_positions "
    "model_max_length max_source_positions keep_window_size",
}
"""What whole numbers become, by name; the first that fits. Windows and the like are small enough to be crossed."""

VOCABULARIES = "vocab_size vocab_size_per_layer_input unpadded_vocab_size decoder_vocab_size"
LISTS = "layer_types *_layer_types layers_block_type block_types indexer_types attn_layers"
"""Of layers, by kind: one of each kind is kept."""
COUNTS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
SPECIAL = ("pad_token_id", "bos_token_id", "eos_token_id")

_ROPE = {"rope_type": "default", "rope_theta": 1e4}
_HYBRID = {"num_hidden_layers": 4, "num_key_value_heads": 4, "layers_block_type": ["linear_attention", "hybrid"] * 2}
OVERRIDES: Mapping[str, Mapping[str, Any]] = {
    "bamba": {"attn_layer_indices": [1], "num_hidden_layers": 2},
    "blt": {"encoder_hash_byte_group_vocab": 64},
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": {"sliding_attention": {**_ROPE, "mrope_section": [2, 1, 1]}, "full_attention": None},
    },
    "cwm": {"bos_token_id": 0},
    "dbrx": {"attn_config": {"rope_theta": 1e4, "clip_qkv": 8.0, "kv_n_heads": 2}, "rope_parameters": _ROPE},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {"n_shared_experts": 1, "n_routed_experts": 4, "head_dim": 8, "num_experts_per_tok": 2},
    "dots3_note_text": {"head_dim": 16, "per_layer_config": {}},
    "emu3": {"vocabulary_map": {"<image>": 300}},
    "gpt_neo": {"num_layers": 2, "attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"], "num_hidden_layers": 2},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2": {"layer_types": ["conv", "full_attention"], "num_hidden_layers": 2},
    "lfm2_moe": {"num_hidden_layers": 2, "layer_types": ["conv", "full_attention"]},
    "mamba2": {"hidden_size": 32, "num_heads": 8, "n_groups": 1, "head_dim": 8},
    "ministral": {"head_dim": 8},
    "modernbert-decoder": {"bos_token_id": 0},
    "nemotron": {"num_key_value_heads": 2},
    "qwen4_exp_text": {
        **{"indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 16, "indexer_budget": 8},
        **{"indexer_compress_ratio": 2, "hc_lowrank": 8, "ngram_vocab_size_base": 64, "split_ngram_parts": 1},
        **{"ple_embed_dim": 32, "make_ngram_vocab_size_divisible_by": 8},
    },
    "reformer": {"is_decoder": True, "axial_pos_embds_dim": [16, 16], "axial_pos_shape": [32, 64]},
    "roc_bert": {"shape_vocab_size": 50},
    "xmod": {"default_language": "en_XX"},
    "zamba": {**_HYBRID, "attention_head_dim": 16, "attention_hidden_size": 64},
    "zamba2": {
        **_HYBRID,
        **{"attention_head_dim": 16, "attention_hidden_size": 64, "mamba_headdim": 16, "n_mamba_heads": 4},
    },
    "zaya": {"num_experts_per_tok": 1},
}
"""Values of single types that no rule gives."""

NOT_ALONE: Mapping[str, str] = {
    "gemma3n": "its vision tower needs timm; its text model is `gemma3n_text`",
    "gemma4_assistant": "a draft that reads another model's keys",
    "gemma4_unified_assistant": "a draft that reads another model's keys",
    "internlm3": "another name of Llama's class",
    "iquestcoder": "another name of Llama's class",
    "musicgen": "writes codes of sound",
    "musicgen_melody": "writes codes of sound",
    "whisper": "the decoder of a speech model, with a `generate` of its own",
}
"""Types of which there is nothing to try, and why."""


def names() -> list[str]:
    """Model types of all causal classes."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def build(name: str, tokenizer: Any) -> Any:
    """A model of type ``name`` with random weights, for the ids of ``tokenizer``.

    Raises:
        Exception: what transformers raises where the shrunk configuration makes no model.
    """
    import torch
    from transformers import GenerationConfig
    from transformers.models.auto import modeling_auto

    config = configuration(name, tokenizer)
    kind = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    if kind.config_class is not type(config):  # that is the text model of a larger one: checkpoints are of the whole
        kind = modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)]
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in kind(config).parameters())
    if size > MOST_PARAMETERS:
        raise ValueError(f"{size} parameters")
    model = randomise(kind(config))
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id)  # some force ids at the end
    return model


def configuration(name: str, tokenizer: Any) -> Any:
    """The default configuration of a model type, shrunk."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind, override = CONFIG_MAPPING[name], OVERRIDES.get(name, {})
    try:
        defaults = kind().to_dict()
    except Exception:  # some have no default that is valid
        defaults = kind(**override).to_dict()
    changed = shrunk(defaults, len(tokenizer))
    part = (defaults.get("text_config") or {}).get("model_type")
    if part in names():
        changed["text_config"] = configuration(part, tokenizer).to_dict()
    special = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": 0}
    return kind(**(changed | special | dict(override)))


def shrunk(defaults: Mapping[str, Any], vocabulary: int) -> dict[str, Any]:
    """Those of a configuration's values that change, and to what."""
    changed: dict[str, Any] = {}
    for name, value in defaults.items():
        if isinstance(value, Mapping):
            if name.endswith("_config") or name in ("encoder", "decoder", "text_encoder", "audio_encoder"):
                changed[name] = {**value, **shrunk(value, vocabulary)}
        elif isinstance(value, list | tuple):
            if fits(name, LISTS):
                changed[name] = list(dict.fromkeys(value))
        elif isinstance(value, int) and not isinstance(value, bool):
            changed |= number(name, value, vocabulary)
    if lists := {name: value for name, value in changed.items() if isinstance(value, list)}:
        n = max(2, *map(len, lists.values()))
        changed |= {name: [*value, *[value[-1]] * (n - len(value))] for name, value in lists.items()}
        changed |= {name: n for name in COUNTS if name in defaults}
    if "kv_lora_rank" in defaults:
        changed["num_key_value_heads"] = 4  # as many as there are heads
    if by_layer := defaults.get("per_layer_config"):
        changed["per_layer_config"] = layer_by_layer(by_layer, defaults, changed, vocabulary)
    return changed


def number(name: str, value: int, vocabulary: int) -> dict[str, int]:
    """What a whole number becomes, nothing where it stays."""
    if name in SPECIAL:
        return {name: 0} if value >= vocabulary else {}
    if fits(name, VOCABULARIES):
        return {name: vocabulary}
    return next(({name: size} for size, patterns in SIZES.items() if fits(name, patterns)), {})


def fits(name: str, patterns: str) -> bool:
    """Whether a name is one of those, or of their kind."""
    return any(fnmatch(name, pattern) for pattern in patterns.split())


def layer_by_layer(
    by_layer: Mapping[str, Mapping[str, Any]], defaults: Mapping[str, Any], changed: Mapping[str, Any], vocabulary: int
) -> dict[int, dict[str, Any]]:
    """Values of single layers, for the layers of those kinds that are left; larger than those of the others."""
    old = defaults.get("layer_types") or []
    kept = {}
    for i, kind in enumerate(changed.get("layer_types", [])):
        key = next((key for key in by_layer if old[int(key)] == kind), None)
        if key is not None:
            kept[i] = {name: 2 * value for name, value in shrunk(by_layer[key], vocabulary).items()}
    return kept
