"""What config.json says of models on the Hub, as far as numbers depend on it.

Written down by hand, with the older names of settings and without those that
older files leave out; ids of tokens and versions are made up. The numbers of
parameters check the sizes.
"""

_BOOKKEEPING = {
  "attention_dropout": 0.0,
  "bos_token_id": 2,
  "eos_token_id": 1,
  "initializer_range": 0.02,
  "torch_dtype": "bfloat16",
  "transformers_version": "4.45.0",
  "use_cache": True,
}
_LLAMA = _BOOKKEEPING | {
  "architectures": ["LlamaForCausalLM"],
  "model_type": "llama",
  "attention_bias": False,
  "mlp_bias": False,
  "hidden_act": "silu",
  "max_position_embeddings": 131072,
  "num_key_value_heads": 8,
  "pretraining_tp": 1,
  "rms_norm_eps": 1e-05,
  "rope_theta": 500000.0,
  "vocab_size": 128256,
}
_LLAMA3_ROPE = {
  "high_freq_factor": 4.0,
  "low_freq_factor": 1.0,
  "original_max_position_embeddings": 8192,
  "rope_type": "llama3",
}
_QWEN2 = _BOOKKEEPING | {
  "architectures": ["Qwen2ForCausalLM"],
  "model_type": "qwen2",
  "hidden_act": "silu",
  "max_position_embeddings": 131072,
  "rms_norm_eps": 1e-06,
  "rope_theta": 1000000.0,
  "sliding_window": 131072,
  "use_mrope": False,
  "use_sliding_window": False,
  "vocab_size": 151936,
}
_QWEN3 = _BOOKKEEPING | {
  "architectures": ["Qwen3ForCausalLM"],
  "model_type": "qwen3",
  "attention_bias": False,
  "head_dim": 128,
  "hidden_act": "silu",
  "max_position_embeddings": 40960,
  "max_window_layers": 28,
  "num_key_value_heads": 8,
  "rms_norm_eps": 1e-06,
  "rope_scaling": None,
  "rope_theta": 1000000,
  "sliding_window": None,
  "use_sliding_window": False,
  "vocab_size": 151936,
}
_GEMMA = _BOOKKEEPING | {
  "attention_bias": False,
  "cache_implementation": "hybrid",
  "head_dim": 256,
  "hidden_activation": "gelu_pytorch_tanh",
  "num_hidden_layers": 26,
  "pad_token_id": 0,
  "query_pre_attn_scalar": 256,
  "rms_norm_eps": 1e-06,
}

_T5 = {
  "architectures": ["T5ForConditionalGeneration"],
  "model_type": "t5",
  "d_kv": 64,
  "decoder_start_token_id": 0,
  "dropout_rate": 0.1,
  "eos_token_id": 1,
  "feed_forward_proj": "gated-gelu",
  "gradient_checkpointing": False,
  "initializer_factor": 1.0,
  "is_encoder_decoder": True,
  "layer_norm_epsilon": 1e-06,
  "n_positions": 512,
  "output_past": True,
  "pad_token_id": 0,
  "relative_attention_num_buckets": 32,
  "tie_word_embeddings": False,
  "use_cache": True,
  "vocab_size": 32128,
}
_T5_SMALL = _T5 | {
  "d_model": 512,
  "d_ff": 1024,
  "num_heads": 6,
  "num_layers": 8,
  "num_decoder_layers": 8,
}
_T5_BASE = _T5 | {
  "d_model": 768,
  "d_ff": 2048,
  "num_heads": 12,
  "num_layers": 12,
  "num_decoder_layers": 12,
}
_T5_LARGE = _T5 | {
  "d_model": 1024,
  "d_ff": 2816,
  "num_heads": 16,
  "num_layers": 24,
  "num_decoder_layers": 24,
}
_BYT5 = _T5 | {"tokenizer_class": "ByT5Tokenizer", "vocab_size": 384}

# name of the gin file -> config.json, number of parameters
HUB = {
  "llama3_2_1b": (
    _LLAMA
    | {
      "head_dim": 64,
      "hidden_size": 2048,
      "intermediate_size": 8192,
      "num_attention_heads": 32,
      "num_hidden_layers": 16,
      "rope_scaling": _LLAMA3_ROPE | {"factor": 32.0},
      "tie_word_embeddings": True,
    },
    1_235_814_400,
  ),
  "llama3_2_3b": (
    _LLAMA
    | {
      "head_dim": 128,
      "hidden_size": 3072,
      "intermediate_size": 8192,
      "num_attention_heads": 24,
      "num_hidden_layers": 28,
      "rope_scaling": _LLAMA3_ROPE | {"factor": 32.0},
      "tie_word_embeddings": True,
    },
    3_212_749_824,
  ),
  "llama3_1_8b": (
    _LLAMA
    | {
      "hidden_size": 4096,
      "intermediate_size": 14336,
      "num_attention_heads": 32,
      "num_hidden_layers": 32,
      "rope_scaling": _LLAMA3_ROPE | {"factor": 8.0},
      "tie_word_embeddings": False,
    },
    8_030_261_248,
  ),
  "qwen2_5_0_5b": (
    _QWEN2
    | {
      "hidden_size": 896,
      "intermediate_size": 4864,
      "max_window_layers": 24,
      "num_attention_heads": 14,
      "num_hidden_layers": 24,
      "num_key_value_heads": 2,
      "tie_word_embeddings": True,
    },
    494_032_768,
  ),
  "qwen2_5_1_5b": (
    _QWEN2
    | {
      "hidden_size": 1536,
      "intermediate_size": 8960,
      "max_window_layers": 28,
      "num_attention_heads": 12,
      "num_hidden_layers": 28,
      "num_key_value_heads": 2,
      "tie_word_embeddings": True,
    },
    1_543_714_304,
  ),
  "qwen2_5_7b": (
    _QWEN2
    | {
      "hidden_size": 3584,
      "intermediate_size": 18944,
      "max_window_layers": 28,
      "num_attention_heads": 28,
      "num_hidden_layers": 28,
      "num_key_value_heads": 4,
      "tie_word_embeddings": False,
      "vocab_size": 152064,
    },
    7_615_616_512,
  ),
  "qwen3_0_6b": (
    _QWEN3
    | {
      "hidden_size": 1024,
      "intermediate_size": 3072,
      "num_attention_heads": 16,
      "num_hidden_layers": 28,
      "tie_word_embeddings": True,
    },
    596_049_920,
  ),
  "qwen3_1_7b": (
    _QWEN3
    | {
      "hidden_size": 2048,
      "intermediate_size": 6144,
      "num_attention_heads": 16,
      "num_hidden_layers": 28,
      "tie_word_embeddings": True,
    },
    1_720_574_976,
  ),
  "qwen3_8b": (
    _QWEN3
    | {
      "hidden_size": 4096,
      "intermediate_size": 12288,
      "num_attention_heads": 32,
      "num_hidden_layers": 36,
      "tie_word_embeddings": False,
    },
    8_190_735_360,
  ),
  "gemma2_2b": (
    _GEMMA
    | {
      "architectures": ["Gemma2ForCausalLM"],
      "model_type": "gemma2",
      "attn_logit_softcapping": 50.0,
      "final_logit_softcapping": 30.0,
      "hidden_act": "gelu_pytorch_tanh",
      "hidden_size": 2304,
      "intermediate_size": 9216,
      "max_position_embeddings": 8192,
      "num_attention_heads": 8,
      "num_key_value_heads": 4,
      "rope_theta": 10000.0,
      "sliding_window": 4096,
      "vocab_size": 256000,
    },
    2_614_341_888,
  ),
  "gemma3_1b": (
    _GEMMA
    | {
      "architectures": ["Gemma3ForCausalLM"],
      "model_type": "gemma3_text",
      "attn_logit_softcapping": None,
      "final_logit_softcapping": None,
      "hidden_size": 1152,
      "intermediate_size": 6912,
      "max_position_embeddings": 32768,
      "num_attention_heads": 4,
      "num_key_value_heads": 1,
      "rope_local_base_freq": 10000,
      "rope_scaling": None,
      "rope_theta": 1000000,
      "sliding_window": 512,
      "sliding_window_pattern": 6,
      "vocab_size": 262144,
    },
    999_885_952,
  ),
  "t5_1_1_small": (_T5_SMALL, 76_961_152),
  "t5_1_1_base": (_T5_BASE, 247_577_856),
  "t5_1_1_large": (_T5_LARGE, 783_150_080),
  "flan_t5_small": (_T5_SMALL, 76_961_152),
  "flan_t5_base": (_T5_BASE, 247_577_856),
  "flan_t5_large": (_T5_LARGE, 783_150_080),
  "flan_t5_xl": (
    _T5_LARGE | {"d_model": 2048, "d_ff": 5120, "num_heads": 32},
    2_849_757_184,
  ),
  "byt5_small": (
    _BYT5
    | {
      "d_model": 1472,
      "d_ff": 3584,
      "num_heads": 6,
      "num_layers": 12,
      "num_decoder_layers": 4,
    },
    299_637_760,
  ),
  "byt5_base": (
    _BYT5
    | {
      "d_model": 1536,
      "d_ff": 3968,
      "num_heads": 12,
      "num_layers": 18,
      "num_decoder_layers": 6,
    },
    581_653_248,
  ),
}
