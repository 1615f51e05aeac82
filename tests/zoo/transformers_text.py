"""Texts: encoders with a head for classes, decoders, and encoder-decoders."""

from __future__ import annotations

from typing import Any

from transformers_nets import WIDTH, entry, pairs, text

ENCODERS: dict[str, dict[str, Any]] = {
    **{
        name: {}
        for name in """
        Albert Bert BigBird Camembert ConvBert Data2VecText Deberta DebertaV2 DistilBert Electra Ernie Esm EuroBert
        FNet Flaubert IBert Longformer MPNet MegatronBert MobileBert ModernBert NomicBert Nystromformer RemBert RoFormer
        Roberta XLM XLMRoberta Yoso
        """.split()
    },
    "Canine": {"num_hash_buckets": 64, "local_transformer_stride": 8},
    "Funnel": {"block_sizes": [1, 1], "d_model": WIDTH, "d_head": 8, "d_inner": 48, "n_head": 4},
    "GPT2": {},
    "Llama": {},
    "Luke": {"entity_vocab_size": 20, "entity_emb_size": 8},
    "SqueezeBert": {"embedding_size": WIDTH},
    "XLNet": {"d_head": 8, "d_inner": 48},
}

EXPERTS = {"num_experts_per_tok": 2}
LATENT = {"kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8}
DECODERS: dict[str, dict[str, Any]] = {
    **{
        name: {}
        for name in """
        BertForMaskedLM RobertaForTokenClassification
        BioGptForCausalLM BitNetForCausalLM BloomForCausalLM CohereForCausalLM DiffLlamaForCausalLM FalconForCausalLM
        FalconMambaForCausalLM GPT2LMHeadModel GPTNeoXForCausalLM Gemma2ForCausalLM Gemma3ForCausalLM GemmaForCausalLM
        GraniteForCausalLM Lfm2ForCausalLM LlamaForCausalLM MambaForCausalLM MistralForCausalLM MixtralForCausalLM
        MptForCausalLM NemotronForCausalLM Olmo2ForCausalLM OpenAIGPTLMHeadModel PersimmonForCausalLM Phi3ForCausalLM
        PhiForCausalLM Qwen2ForCausalLM Qwen3ForCausalLM RecurrentGemmaForCausalLM RwkvForCausalLM SmolLM3ForCausalLM
        StableLmForCausalLM Starcoder2ForCausalLM
        """.split()
    },
    "CTRLLMHeadModel": {"dff": 48},
    "CodeGenForCausalLM": {"rotary_dim": 4},
    "DeepseekV3ForCausalLM": {
        **EXPERTS,
        **LATENT,
        "head_dim": 4,
        "num_key_value_heads": 4,
        "n_routed_experts": 4,
        "n_group": 2,
        "topk_group": 1,
        "moe_intermediate_size": 16,
        "first_k_dense_replace": 1,
    },
    "GPTJForCausalLM": {"rotary_dim": 4},
    "GPTNeoForCausalLM": {"attention_types": [[["global", "local"], 1]], "num_hidden_layers": 2},
    "GptOssForCausalLM": {**EXPERTS, "num_local_experts": 4},
    "JambaForCausalLM": {
        "attn_layer_offset": 1,
        "attn_layer_period": 2,
        "expert_layer_offset": 1,
        "expert_layer_period": 2,
        "num_experts": 2,
        "mamba_d_state": 4,
        "mamba_dt_rank": 4,
    },
    "Llama4ForCausalLM": {},
    "Mamba2ForCausalLM": {"num_heads": 8, "n_groups": 2, "state_size": 8},
    "OPTForCausalLM": {"ffn_dim": 48, "word_embed_proj_dim": WIDTH},
    "OlmoeForCausalLM": {**EXPERTS, "num_experts": 4},
    "Qwen3MoeForCausalLM": {**EXPERTS, "num_experts": 4, "moe_intermediate_size": 16},
    "XGLMForCausalLM": {"ffn_dim": 48},
}

LAYERS = {
    f"{side}_{what}": value
    for side in ("encoder", "decoder")
    for what, value in {"layers": 2, "attention_heads": 4, "ffn_dim": 48}.items()
}
T5 = {"d_kv": 8, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 2}
TRANSLATORS: dict[str, dict[str, Any]] = {
    **{f"{name}ForConditionalGeneration": LAYERS for name in "Bart Blenderbot M2M100 MBart PLBart Pegasus".split()},
    **{f"{name}ForConditionalGeneration": T5 for name in "LongT5 MT5 T5".split()},
    "FSMTForConditionalGeneration": {**LAYERS, "langs": ["en", "de"], "src_vocab_size": 50, "tgt_vocab_size": 50},
    "LEDForConditionalGeneration": {
        **LAYERS,
        "attention_window": 4,
        "max_encoder_position_embeddings": 40,
        "max_decoder_position_embeddings": 40,
    },
    "MarianMTModel": LAYERS,
    "ProphetNetForConditionalGeneration": {
        "num_encoder_layers": 2,
        "num_decoder_layers": 2,
        "num_encoder_attention_heads": 4,
        "num_decoder_attention_heads": 4,
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48,
    },
    "SwitchTransformersForConditionalGeneration": {
        **T5,
        "num_sparse_encoder_layers": 1,
        "num_sparse_decoder_layers": 1,
        "num_experts": 2,
        "router_jitter_noise": 0.0,
    },
}

ENTRIES = [
    *(entry(f"{name}ForSequenceClassification", text, changes=changes) for name, changes in ENCODERS.items()),
    *(entry(name, text, changes=changes) for name, changes in DECODERS.items()),
    *(entry(name, pairs, changes=changes) for name, changes in TRANSLATORS.items()),
]
