"""A tiny random model of any causal LM type that transformers knows, made from the type's own configuration.

Sizes are given by their names: a type takes those that its configuration has, and so do its parts (text, vision). What
a type needs besides stands in `OWN`.
"""

import inspect
from typing import Any

import torch
from tiny import tiny_tokenizer
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

TYPES = tuple(sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
"""Every causal LM type of the installed transformers."""

TOKENIZER = tiny_tokenizer("bpe", bos="known")
WINDOW = 16
"""Windows, chunks and the keys that sparse attention keeps, in tokens: fewer than a prompt of the test has."""

MOST = 8_000_000
"""Weights of a tiny model; one that takes its sizes from other names has billions."""

_PERCEIVES = {"vision", "audio", "image"}
_LAYERS = {"num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers"}
_WIDTHS = {"hidden_size", "n_embd", "d_model", "word_embed_proj_dim", "embedding_size", "lru_width", "emb_dim"}
_WIDTHS |= {"hidden_size_global"}
_INNER = {"intermediate_size", "ffn_dim", "d_ff", "n_inner", "decoder_ffn_dim", "encoder_ffn_dim", "ffn_hidden_size"}
_HEADS = {"num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads", "decoder_attention_heads"}
_EXPERTS = {"num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"}
_CHOSEN = {"num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "moe_top_k"}
_POSITIONS = {"max_position_embeddings", "n_positions", "max_seq_len", "n_ctx", "model_max_length"}
_WINDOWS = {"sliding_window", "sliding_window_size", "attention_window_size", "attention_chunk_size", "window_size"}
_REACH = {"local_attention", "local_attention_window_len", "keep_window_size", "rel_extent", "log_scaling_n_floor"}
_KEPT = {"index_topk", "indexer_budget", "floor_scale"}

SIZES: dict[str, Any] = {
    **dict.fromkeys(_LAYERS, 2),
    **dict.fromkeys(_WIDTHS | {"attention_hidden_size"}, 64),
    **dict.fromkeys(_INNER | {"intermediate_size_mlp"}, 96),
    **dict.fromkeys(_HEADS | {"encoder_attention_heads"}, 4),
    **dict.fromkeys(_EXPERTS, 4) | dict.fromkeys(_CHOSEN, 2),
    **dict.fromkeys(_POSITIONS, 512),
    **dict.fromkeys(_WINDOWS | _REACH | _KEPT, WINDOW),
    **{"vocab_size": len(TOKENIZER), "num_key_value_heads": 2, "head_dim": 16, "rotary_dim": 8},
    **{"moe_intermediate_size": 32, "shared_expert_intermediate_size": 32, "shared_intermediate_size": 32},
    **{"expert_ffn_hidden_size": 32, "n_shared_experts": 1, "n_group": 1, "topk_group": 1, "num_dense_layers": 1},
    **{"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16},
    **{"index_n_heads": 16, "index_head_dim": 16, "index_block_size": 8, "index_topk_blocks": 2},
    **{"indexer_n_heads": 16, "indexer_kv_heads": 1, "indexer_head_dim": 16, "indexer_compress_ratio": 4},
    **{"swa_num_attention_heads": 4, "swa_num_key_value_heads": 2, "swa_head_dim": 16, "query_pre_attn_scalar": 16},
    **{"state_size": 8, "ssm_state_size": 8, "time_step_rank": 4, "conv_kernel": 4, "chunk_size": 8},
    **{"mamba_d_state": 8, "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_expand": 2, "mamba_dt_rank": 4},
    **{"mamba_n_groups": 1, "mamba_chunk_size": 8, "mamba_num_heads": 8, "mamba_head_dim": 16, "mamba_d_ssm": 128},
    **{"mamba_ngroups": 1, "n_mamba_heads": 2, "n_groups": 1},
    **{"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 16},
    **{"linear_head_dim": 16, "linear_num_heads": 4},
    **{"hidden_size_per_layer_input": 16, "vocab_size_per_layer_input": len(TOKENIZER), "num_kv_shared_layers": 2},
    **{"laurel_rank": 8, "is_decoder": True, "causal": True, "use_sliding_window": True, "max_window_layers": 1},
    **{f"{name}_token_id": TOKENIZER.convert_tokens_to_ids(f"<{name}>") for name in ("pad", "bos", "eos")},
}
"""What a size is called in configurations, and how large it is here. Indices have many heads: with two, keys often tie
at a score of 0, and which of them are kept is then chance."""

VISION = {
    **{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28},
    **{"patch_size": 14, "depth": 1, "num_heads": 2, "out_hidden_size": 64, "num_key_value_heads": 2, "head_dim": 16},
    **{"num_blocks": 1, "vision_output_dim": 32, "projector_input_dim": 32, "projector_output_dim": 32},
}
"""The same of a part that sees or hears."""

_ROTARY = {"rope_type": "default", "rope_theta": 1e4}
_ZAMBA = {
    **{"num_hidden_layers": 4, "num_key_value_heads": 4},
    "layers_block_type": ["linear_attention", "linear_attention", "hybrid", "hybrid"],
}
_LATENT_TYPES = (
    *("axk1", "axk2", "bailing_hybrid", "deepseek_v3", "deepseek_v32", "glm_moe_dsa", "kimi_linear", "minicpm3"),
    "youtu",
)
_LATENT: dict[str, Any] = {"num_key_value_heads": 4, "head_dim": None}

_THREE_AXES = ("qwen2_vl_text", "qwen2_5_vl_text", "qwen3_vl_text", "glm4v_text", "paddleocr_vl_text", "glm_ocr_text")

OWN: dict[str, dict[str, Any]] = {
    **dict.fromkeys(_LATENT_TYPES, _LATENT),
    "bamba": {"attn_layer_indices": [1]},
    "blt": {"encoder_hash_byte_group_vocab": 500},
    "cohere_compass_text": {"rope_parameters": {k: _ROTARY for k in ("full_attention", "sliding_attention")}},
    "dbrx": {"attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0}},
    "deepseek_v4": {"compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 8}},
    "doge": {"sliding_window": None},
    "dots3_note_text": {"num_key_value_heads": 4, "per_layer_config": {}},
    "dots3_note_audio_encoder": {"adapter_input_size": 32, "adapter_out_dim": 64},
    "dots3_note_vision_encoder": {
        **{"adapter_in_dim": 32, "adapter_out_dim": 64, "moe_intermediate_size": 32},
        **{"mlp_layer_types": ["sparse"], "per_layer_config": {}},
    },
    "emu3": {"vocabulary_map": {"<image>": 3, "<|extra_200|>": 4}},
    "emu3_vqgan": {"base_channels": 32, "num_res_blocks": 1, "codebook_size": 32, "channel_multiplier": [1, 1]},
    "gemma3n_text": {"activation_sparsity_pattern": [0.95, 0.95, 0.0, 0.0]},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2_moe": {"num_hidden_layers": 3, "layer_types": ["conv", "full_attention", "conv"]},
    "longcat_flash": {"num_key_value_heads": 4, "head_dim": 8},
    "mamba2": {"num_heads": 8},
    "minimax_m3_vl_text": {"index_n_heads": 2, "layer_types": ["full_attention", "minimax_m3_sparse"]},
    **{kind: {"rope_parameters": {**_ROTARY, "mrope_section": [4, 2, 2]}} for kind in _THREE_AXES},
    "qwen2_vl_vision": {"embed_dim": 32, "hidden_size": 64},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "reformer": {"axial_pos_embds": False, "attn_layers": ["local", "lsh"], "feed_forward_size": 96},
    "roc_bert": {"pronunciation_vocab_size": 50, "shape_vocab_size": 50},
    "xlstm": {"chunk_size": None, "qk_dim_factor": 1.0},
    "xmod": {"default_language": "en_XX"},
    "zamba": {**_ZAMBA, "attention_hidden_size": 128, "head_dim": 32},
    "zamba2": {**_ZAMBA, "attention_hidden_size": None, "head_dim": None},
    "zaya": {"num_experts_per_tok": 1},
}
"""What types need besides, by the name of the type or of its part; None stands for the type's own default."""


def tiny_of(kind: str, **changed: Any) -> Any:
    """Return a tiny random model of a type, with its vision part where it has one, the same at every call.

    Args:
        kind: the type, as its configuration calls it.
        **changed: what is otherwise in its configuration.

    Raises:
        RuntimeError: it would have too many weights.
    """
    config = configuration(CONFIG_MAPPING[kind], SIZES | changed)
    maker = AutoModelForImageTextToText if kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES else AutoModelForCausalLM
    with torch.device("meta"):
        count = sum(p.numel() for p in maker.from_config(config).parameters())
    if count > MOST:
        raise RuntimeError(f"{count:,} weights: some of its sizes have names that are not among SIZES")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = maker.from_config(config, dtype=torch.float32)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.add_(torch.randn(parameter.shape), alpha=0.1)
    return model.eval()


def configuration(kind: type[PreTrainedConfig], sizes: dict[str, Any]) -> PreTrainedConfig:
    """Return a configuration of a type in which everything that has a size is small."""
    default = kind()
    own = OWN.get(kind.model_type, {})
    given = {name: size for name, size in sizes.items() if _takes(kind, default, name)} | own
    for name in kind.sub_configs:
        part = getattr(default, name, None)
        if part is not None:
            given.setdefault(
                name, configuration(type(part), VISION if _PERCEIVES & set(name.split("_")) else SIZES).to_dict()
            )
    if _takes(kind, default, "layer_types") and default.layer_types and "layer_types" not in own:
        # As many layers of every kind as of the others, in the order in which they come first.
        kinds = list(dict.fromkeys(default.layer_types))
        given["layer_types"] = kinds * 2 if len(kinds) > 1 else kinds * given["num_hidden_layers"]
        given["num_hidden_layers"] = len(given["layer_types"])
    return kind(**{name: size for name, size in given.items() if size is not None})


def _takes(kind: type[PreTrainedConfig], default: PreTrainedConfig, name: str) -> bool:
    """Return whether a configuration has a number of this name that can be set."""
    known = {*inspect.signature(kind.__init__).parameters, *default.to_dict()}
    place = inspect.getattr_static(kind, kind.attribute_map.get(name, name), None)
    return name in known and not (isinstance(place, property) and place.fset is None)
