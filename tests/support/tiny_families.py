"""Further families at toy size, for ``support.families``; made as those of ``tiny_architectures``.

Configurations and processors are transformers' own. Some chat templates keep what makes the published one special: an
answer that is printed as a string, a thought before the answer.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import transformers

from support.tiny_architectures import TEXT, _class, _write, template, tokenizer_of

CLIP = {
    "model_type": "clip_vision_model", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 2, "image_size": 28, "patch_size": 14, "projection_dim": 16,
}  # fmt: skip
SIGLIP = {
    "model_type": "siglip_vision_model", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 2, "image_size": 28, "patch_size": 7, "vision_use_head": False,
}  # fmt: skip
PIXTRAL = {
    "model_type": "pixtral", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 2, "head_dim": 8, "image_size": 84, "patch_size": 7,
}  # fmt: skip
SQUARE = {"height": 28, "width": 28}
MROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
THINKING = template("<|vision_start|><|image_pad|><|vision_end|>").replace(
    "{% for part in", "{% if message['role'] == 'assistant' %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% for part in"
).replace("assistant\n' }}{% endif %}", "assistant\n<think>\n' }}{% endif %}")  # fmt: skip


def _named(names: dict[str, str], *more: str) -> tuple[Any, dict[str, int]]:
    """A tokenizer with these special tokens, and their ids."""
    tokenizer = tokenizer_of([], names | {f"sign_{at}": sign for at, sign in enumerate(more)})
    return tokenizer, {sign: tokenizer.convert_tokens_to_ids(sign) for sign in (*names.values(), *more)}


def llava(folder: Path) -> Path:
    """LLaVA-1.5: one square an image, whatever its shape; turns in words, not in special tokens."""
    tokenizer, ids = _named({"image_token": "<image>"})
    images = _class("CLIPImageProcessor")(size=SQUARE, crop_size=SQUARE, do_center_crop=False)
    chat = (
        "{% for message in messages %}{{ message['role'].upper() + ': ' }}{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}{{ '<image>\n' }}{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
        "{% if message['role'] == 'assistant' %}{{ '<|im_end|>' }}{% else %}{{ ' ' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
    )
    processor = transformers.LlavaProcessor(
        images, tokenizer, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=chat,
    )  # fmt: skip
    config = transformers.LlavaConfig(
        vision_config=CLIP, text_config={"model_type": "llama", "vocab_size": len(tokenizer), **TEXT},
        image_token_index=ids["<image>"],
    )  # fmt: skip
    return _write(folder, config, processor)


def llava_next(folder: Path) -> Path:
    """LLaVA-NeXT: an image in tiles with its padding cut away, and once as a whole."""
    tokenizer, ids = _named({"image_token": "<image>"})
    points = [[28, 56], [56, 28], [56, 56]]
    images = _class("LlavaNextImageProcessor")(
        size={"shortest_edge": 28}, crop_size=SQUARE, image_grid_pinpoints=points
    )
    processor = transformers.LlavaNextProcessor(
        images, tokenizer, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=template("<image>", after="\\n"),
    )  # fmt: skip
    config = transformers.LlavaNextConfig(
        vision_config=CLIP, text_config={"model_type": "mistral", "vocab_size": len(tokenizer), **TEXT, "head_dim": 8},
        image_token_index=ids["<image>"], image_grid_pinpoints=points, image_seq_length=4,
    )  # fmt: skip
    return _write(folder, config, processor)


def pixtral(folder: Path) -> Path:
    """Pixtral-12B: as Mistral Small 3.1 without its merging of patches; its template prints an answer as a string."""
    special = ["[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]"]
    tokenizer = tokenizer_of(special)
    images = transformers.PixtralImageProcessorPil(size={"longest_edge": 84}, patch_size={"height": 7, "width": 7})
    chat = (
        "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST]' }}"
        "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '[IMG]' }}"
        "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{{ '[/INST]' }}"
        "{% else %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}"
    )
    processor = transformers.PixtralProcessor(images, tokenizer, patch_size=7, chat_template=chat)
    config = transformers.LlavaConfig(
        vision_config=PIXTRAL,
        text_config={"model_type": "mistral", "vocab_size": len(tokenizer), **TEXT, "head_dim": 8,
                     "sliding_window": None},
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"), vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )  # fmt: skip
    return _write(folder, config, processor)


def gemma3(folder: Path) -> Path:
    """Gemma 3: the tokens of an image attend to each other; most layers see a window only."""
    tokenizer, ids = _named(
        {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    )
    images = _class("Gemma3ImageProcessor")(size=SQUARE)
    processor = transformers.Gemma3Processor(
        images, tokenizer, image_seq_length=4, chat_template=template("<start_of_image>", assistant="model")
    )
    config = transformers.Gemma3Config(
        vision_config=SIGLIP,
        text_config={
            "vocab_size": len(tokenizer), **TEXT, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 32,
            "layer_types": ["sliding_attention", "full_attention"],
        },
        mm_tokens_per_image=4, boi_token_index=ids["<start_of_image>"], eoi_token_index=ids["<end_of_image>"],
        image_token_index=ids["<image_soft_token>"],
    )  # fmt: skip
    return _write(folder, config, processor)


def gemma4(folder: Path) -> Path:
    """Gemma 4 (E4B without its audio tower): logits with a soft cap, layers that read the keys of earlier ones, an
    embedding for each layer.
    """
    names = {
        "image_token": "<|image|>", "boi_token": "<|image>", "eoi_token": "<image|>", "audio_token": "<|audio|>",
        "boa_token": "<|audio>", "eoa_token": "<audio|>",
    }  # fmt: skip
    tokenizer, ids = _named(names, "<|video|>")
    processor = transformers.Gemma4Processor(
        transformers.Gemma4AudioFeatureExtractor(),
        _class("Gemma4ImageProcessor")(patch_size=4, max_soft_tokens=70),
        tokenizer,
        _class("Gemma4VideoProcessor")(patch_size=4),
        image_seq_length=70,
        chat_template=template("<|image|>", assistant="model"),
    )
    config = transformers.Gemma4Config(
        vision_config={
            "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 2, "head_dim": 8, "patch_size": 4, "position_embedding_size": 256,
        },
        text_config={
            "vocab_size": len(tokenizer), **TEXT, "num_hidden_layers": 4, "head_dim": 8, "global_head_dim": 8,
            "sliding_window": 32, "num_kv_shared_layers": 2, "vocab_size_per_layer_input": len(tokenizer),
            "layer_types": ["sliding_attention", "full_attention"] * 2, "hidden_size_per_layer_input": 8,
            "final_logit_softcapping": 30.0, "use_bidirectional_attention": "vision",
        },
        image_token_id=ids["<|image|>"], boi_token_id=ids["<|image>"], eoi_token_id=ids["<image|>"],
        audio_token_id=ids["<|audio|>"], boa_token_id=ids["<|audio>"], eoa_token_index=ids["<audio|>"],
        video_token_id=ids["<|video|>"],
    )  # fmt: skip
    return _write(folder, config, processor)


def _qwen3(folder: Path, make: Any, text: dict[str, Any], vision: dict[str, Any]) -> Path:
    from support.tiny_architectures import _qwen_tokenizer

    special = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>", "<think>", "</think>"]
    tokenizer = _qwen_tokenizer(special)
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in special}
    images = _class("Qwen2VLImageProcessor")(patch_size=16, size={"shortest_edge": 1024, "longest_edge": 12288})
    processor = transformers.Qwen3VLProcessor(
        images, tokenizer, _class("Qwen3VLVideoProcessor")(), chat_template=THINKING
    )
    config = make(
        text_config={
            "vocab_size": len(tokenizer), **TEXT, "head_dim": 8, "rope_parameters": MROPE, "pad_token_id": 0, **text
        },
        vision_config={
            "depth": 2, "num_heads": 2, "patch_size": 16, "hidden_size": 16, "out_hidden_size": 32,
            "intermediate_size": 32, "num_position_embeddings": 64, **vision,
        },
        image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"],
    )  # fmt: skip
    return _write(folder, config, processor)


LINEAR = {
    "layer_types": ["linear_attention", "full_attention"], "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "linear_num_key_heads": 2, "linear_num_value_heads": 2,
}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}


def qwen3_vl_thinking(folder: Path) -> Path:
    """Qwen3-VL Thinking: a prompt ends with the begin of a thought."""
    return _qwen3(folder, transformers.Qwen3VLConfig, {}, {"deepstack_visual_indexes": [0, 1]})


def qwen3_5(folder: Path) -> Path:
    """Qwen3.5: three in four layers attend linearly and carry a state; it thinks."""
    rope = MROPE | {"partial_rotary_factor": 1.0, "mrope_interleaved": True}
    return _qwen3(folder, transformers.Qwen3_5Config, LINEAR | {"rope_parameters": rope}, {})


def qwen3_5_moe(folder: Path) -> Path:
    """Qwen3.5 with experts."""
    rope = MROPE | {"partial_rotary_factor": 1.0, "mrope_interleaved": True}
    text = LINEAR | EXPERTS | {"rope_parameters": rope, "shared_expert_intermediate_size": 16}
    return _qwen3(folder, transformers.Qwen3_5MoeConfig, text, {})


def llama4(folder: Path) -> Path:
    """Llama 4: experts, and chunks of attention."""
    signs = ["<|image_start|>", "<|image_end|>", "<|patch|>", "<|tile_x_separator|>", "<|tile_y_separator|>"]
    tokenizer, ids = _named({"image_token": "<|image|>"}, *signs)
    images = _class("Llama4ImageProcessor")(size=SQUARE, max_patches=2)
    processor = transformers.Llama4Processor(images, tokenizer, patch_size=7, chat_template=template("<|image|>"))
    config = transformers.Llama4Config(
        vision_config={
            "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
            "vision_output_dim": 32, "projector_input_dim": 32, "projector_output_dim": 32, "image_size": 28,
            "patch_size": 7,
        },
        text_config={
            "vocab_size": len(tokenizer), **TEXT, "intermediate_size_mlp": 64, "head_dim": 8, "num_local_experts": 2,
            "pad_token_id": 0,
        },
        boi_token_index=ids["<|image_start|>"], eoi_token_index=ids["<|image_end|>"],
        image_token_index=ids["<|patch|>"],
    )  # fmt: skip
    return _write(folder, config, processor)


def kimi_k25(folder: Path) -> Path:
    """Kimi K2.5: latent attention and experts of DeepSeek V3."""
    signs = ["<|media_begin|>", "<|media_content|>", "<|media_end|>"]
    tokenizer, ids = _named({"image_token": "<|media_pad|>", "video_token": "<|kimi_k25_video_placeholder|>"}, *signs)
    images = _class("Kimi_K25ImageProcessor")(patch_size=7, max_patches=64)
    processor = transformers.Kimi_K25Processor(
        images, tokenizer, _class("Kimi_K25VideoProcessor")(patch_size=7),
        chat_template=template("<|media_begin|>image<|media_content|><|media_pad|><|media_end|>"),
    )  # fmt: skip
    config = transformers.Kimi_K25Config(
        vision_config={
            "patch_size": 7, "pos_emb_height": 8, "pos_emb_width": 8, "num_attention_heads": 2,
            "num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 32,
        },
        text_config={
            "model_type": "deepseek_v3", "vocab_size": len(tokenizer), **TEXT, "num_key_value_heads": 4,
            "moe_intermediate_size": 16, "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2,
            "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "q_lora_rank": 8, "kv_lora_rank": 8,
            "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8, "pad_token_id": 0,
        },
        projection_hidden_size=16, image_token_id=ids["<|media_pad|>"],
        video_token_id=ids["<|kimi_k25_video_placeholder|>"], vision_start_token_id=ids["<|media_begin|>"],
        vision_end_token_id=ids["<|media_end|>"], tie_word_embeddings=False,
    )  # fmt: skip
    return _write(folder, config, processor)


def lfm2_vl(folder: Path) -> Path:
    """LFM2-VL: layers of convolutions; images of any shape in one padded batch."""
    cells = [f"<|img_row_{row}_col_{column}|>" for row in range(1, 5) for column in range(1, 5)]
    tokenizer, ids = _named(
        {
            "image_token": "<image>", "image_start_token": "<|image_start|>", "image_end_token": "<|image_end|>",
            "image_thumbnail_token": "<|img_thumbnail|>",
        },
        *cells,
    )  # fmt: skip
    images = _class("Lfm2VlImageProcessor")(
        tile_size=56, encoder_patch_size=14, min_image_tokens=4, max_image_tokens=16, max_tiles=4
    )
    processor = transformers.Lfm2VlProcessor(images, tokenizer, chat_template=template("<image>"))
    config = transformers.Lfm2VlConfig(
        vision_config={
            "model_type": "siglip2_vision_model", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_patches": 64, "patch_size": 14, "vision_use_head": False,
        },
        text_config={
            "model_type": "lfm2", "vocab_size": len(tokenizer), **TEXT, "layer_types": ["conv", "full_attention"],
            "block_multiple_of": 8, "pad_token_id": 0,
        },
        image_token_id=ids["<image>"], projector_hidden_size=32,
    )  # fmt: skip
    return _write(folder, config, processor)


COHERE2 = {
    "model_type": "cohere2", **TEXT, "sliding_window": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "layer_types": ["sliding_attention", "full_attention"],
}  # fmt: skip


def cohere2_vision(folder: Path) -> Path:
    """Command A Vision: tiles, logits with a scale."""
    names = {
        "boi_token": "<|START_OF_IMG|>", "eoi_token": "<|END_OF_IMG|>", "image_token": "<|IMG_PATCH|>",
        "img_line_break_token": "<|IMG_LINE_BREAK|>",
    }  # fmt: skip
    tokenizer, ids = _named(names)
    images = _class("Cohere2VisionImageProcessor")(size=SQUARE, patch_size=2, max_patches=4)
    processor = transformers.Cohere2VisionProcessor(images, tokenizer, chat_template=template("<|IMG_PATCH|>"))
    config = transformers.Cohere2VisionConfig(
        vision_config=SIGLIP, text_config={"vocab_size": len(tokenizer), **COHERE2}, alignment_intermediate_size=32,
        image_token_id=ids["<|IMG_PATCH|>"],
    )  # fmt: skip
    return _write(folder, config, processor)


def aya_vision(folder: Path) -> Path:
    """Aya Vision: tiles that are named in words."""
    signs = ["<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>", "TILE_GLOBAL",
             *(f"TILE_{tile}" for tile in range(1, 5))]  # fmt: skip
    tokenizer, ids = _named({"image_token": "<image>"}, *signs)
    images = _class("GotOcr2ImageProcessor")(size=SQUARE, crop_to_patches=True, min_patches=1, max_patches=4)
    processor = transformers.AyaVisionProcessor(
        images, tokenizer, patch_size=7, img_size=28, downsample_factor=2, chat_template=template("<image>")
    )
    config = transformers.AyaVisionConfig(
        vision_config=SIGLIP, text_config={"vocab_size": len(tokenizer), **COHERE2}, downsample_factor=2,
        image_token_index=ids["<|IMG_PATCH|>"],
    )  # fmt: skip
    return _write(folder, config, processor)


def ovis2(folder: Path) -> Path:
    """Ovis2: an image is read as probabilities of visual words, which have an embedding table."""
    signs = ["<IMG_ATOM>", "<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>"]
    tokenizer, ids = _named({"image_token": "<image>"}, *signs)
    images = _class("Ovis2ImageProcessor")(size=SQUARE, crop_to_patches=True, max_patches=4)
    processor = transformers.Ovis2Processor(images, tokenizer, image_seq_length=4, chat_template=template("<image>"))
    config = transformers.Ovis2Config(
        vision_config={
            "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
            "image_size": 28, "patch_size": 7, "vocab_size": 24, "hidden_stride": 2,
        },
        text_config={"model_type": "qwen2", "vocab_size": len(tokenizer), **TEXT}, hidden_size=32,
        vocab_size=len(tokenizer), image_token_id=ids["<IMG_ATOM>"],
        visual_indicator_token_ids=[ids[sign] for sign in signs[1:]],
    )  # fmt: skip
    return _write(folder, config, processor)


FAMILIES: dict[str, Callable[[Path], Path]] = {
    function.__name__: function
    for function in (
        llava, llava_next, pixtral, gemma3, gemma4, qwen3_vl_thinking, qwen3_5, qwen3_5_moe, llama4,
        kimi_k25, lfm2_vl, cohere2_vision, aya_vision, ovis2,
    )
}  # fmt: skip
