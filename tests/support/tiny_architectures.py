"""Real architectures at toy size with random weights: InternVL, Qwen2-VL, Qwen2.5-VL, Qwen3-VL, LLaVA-OneVision,
Mistral3, Idefics3, SmolVLM.

Configurations and processors are transformers' own, only small; byte-level tokens; the chat templates print what the
published ones print around images and turns. ``built(name, folder)`` writes a checkpoint. The processors of video
models need torchvision.
"""

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForImageTextToText, PreTrainedTokenizerFast

CHATML = ("<|im_start|>", "<|im_end|>")
TEXT = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
}  # fmt: skip


def tokenizer_of(
    special: Sequence[str], named: dict[str, str] | None = None, merges: Sequence[tuple[str, str]] = ()
) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with these special tokens; ``named`` are attributes such as ``image_token``."""
    signs = ["<pad>", *CHATML, *special, *sorted(pre_tokenizers.ByteLevel.alphabet()), *map("".join, merges)]
    vocabulary = {sign: at for at, sign in enumerate(signs)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<|im_start|>", eos_token="<|im_end|>",
        **({"extra_special_tokens": named} if named else {"additional_special_tokens": list(special)}),
    )  # fmt: skip


def template(image: str, *, after: str = "", user: str = "user", assistant: str = "assistant") -> str:
    """A ChatML template that prints ``image`` for each image."""
    return (
        "{% for message in messages %}{{ '<|im_start|>' }}{{ '" + user + "' if message['role'] == 'user' "
        "else '" + assistant + "' }}"
        "{{ '\n' }}{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '" + image + after + "' }}"
        "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>" + assistant + "\n' }}{% endif %}"
    )  # fmt: skip


LLAVA_ONEVISION = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + ' ' }}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>' }}{% else %}{{ '\n' + part['text'] }}{% endif %}{% endfor %}"
    "{{ '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def _write(folder: Path, config: Any, processor: Any, gate: float = 0.0) -> Path:
    torch.manual_seed(0)
    model: Any = AutoModelForImageTextToText.from_config(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(4.0)
        for name, weight in model.named_parameters():
            if name.endswith("attn_gate"):
                weight.fill_(gate)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 2, 0
    model.generation_config.bos_token_id = 1
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def internvl(folder: Path) -> Path:
    """InternVL with dynamic tiles: InternViT tower, pixel shuffle, Qwen2 language model."""
    named = {
        "start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }  # fmt: skip
    tokenizer = tokenizer_of([], named)
    images = _class("GotOcr2ImageProcessor")(
        size={"height": 28, "width": 28}, crop_to_patches=True, min_patches=1, max_patches=4
    )
    videos = _class("InternVLVideoProcessor")(size={"height": 28, "width": 28})
    processor = transformers.InternVLProcessor(
        images, tokenizer, videos, image_seq_length=4, chat_template=template("<IMG_CONTEXT>", after="\\n")
    )
    config = transformers.InternVLConfig(
        vision_config={
            "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
            "image_size": [28, 28], "patch_size": [7, 7],
        },
        text_config={"model_type": "qwen2", "vocab_size": len(tokenizer), **TEXT},
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"), image_seq_length=4,
    )  # fmt: skip
    return _write(folder, config, processor)


def _qwen_tokenizer(special: Sequence[str]) -> Any:
    """As ``tokenizer_of``, in the class as which such a checkpoint's tokenizer is read again."""
    signs = ["<pad>", *CHATML, *special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    return transformers.Qwen2Tokenizer(
        vocab={sign: at for at, sign in enumerate(signs)}, merges=[], unk_token="<pad>", pad_token="<pad>",
        eos_token="<|im_end|>",
        additional_special_tokens=[*CHATML, *special],
    )  # fmt: skip


def _qwen(folder: Path, kind: str, *, patch: int = 14) -> Path:
    special = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    tokenizer = _qwen_tokenizer(special)
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in special}
    cell = (2 * patch) ** 2
    images = _class("Qwen2VLImageProcessor")(patch_size=patch, size={"shortest_edge": cell, "longest_edge": cell * 12})
    videos = _class("Qwen3VLVideoProcessor" if kind.startswith("Qwen3VL") else "Qwen2VLVideoProcessor")()
    make = getattr(transformers, f"{kind.removesuffix('Moe')}Processor")
    processor = make(images, tokenizer, videos, chat_template=template("<|vision_start|><|image_pad|><|vision_end|>"))
    text = {
        "vocab_size": len(tokenizer), **TEXT,
        "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0},
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    }  # fmt: skip
    vision: dict[str, Any] = {"depth": 2, "num_heads": 2, "patch_size": patch}
    if kind == "Qwen2VL":
        vision |= {"embed_dim": 16, "hidden_size": 32, "mlp_ratio": 2}
    else:
        vision |= {"hidden_size": 16, "out_hidden_size": 32, "intermediate_size": 32}
    if kind == "Qwen2_5_VL":
        vision |= {"fullatt_block_indexes": [1], "window_size": 28}
    if kind.startswith("Qwen3VL"):
        vision |= {"deepstack_visual_indexes": [0, 1], "num_position_embeddings": 64}
        text["head_dim"] = 8
    if kind.endswith("Moe"):
        text |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    config = getattr(transformers, f"{kind}Config")(
        text_config=text, vision_config=vision, image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"],
    )  # fmt: skip
    return _write(folder, config, processor)


def qwen2_vl(folder: Path) -> Path:
    """Qwen2-VL: grids of any shape, positions in time, height and width (M-RoPE)."""
    return _qwen(folder, "Qwen2VL")


def qwen2_5_vl(folder: Path) -> Path:
    """Qwen2.5-VL: as Qwen2-VL, the tower attends within windows."""
    return _qwen(folder, "Qwen2_5_VL")


def qwen3_vl(folder: Path) -> Path:
    """Qwen3-VL: as Qwen2-VL, and the tower speaks to several layers of the language model, through a projector each."""
    return _qwen(folder, "Qwen3VL", patch=16)


def qwen3_vl_moe(folder: Path) -> Path:
    """Qwen3-VL with experts, whose weights are one parameter a layer."""
    return _qwen(folder, "Qwen3VLMoe", patch=16)


def mistral3(folder: Path) -> Path:
    """Mistral Small 3 with Pixtral's tower: grids of any shape with a mark at each line's end, and a projector that
    reads the images' sizes.
    """
    special = ["[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]"]
    tokenizer = tokenizer_of(special)
    images = _class("PixtralImageProcessor")(size={"longest_edge": 84}, patch_size={"height": 7, "width": 7})
    processor = transformers.PixtralProcessor(
        images, tokenizer, patch_size=7, spatial_merge_size=2,
        chat_template=(
            "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST]' }}"
            "{% for part in message['content'] %}"
            "{% if part['type'] == 'image' %}{{ '[IMG]' }}{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
            "{{ '[/INST]' }}"
            "{% else %}{{ message['content'][0]['text'] + eos_token }}{% endif %}{% endfor %}"
        ),
    )  # fmt: skip
    config = transformers.Mistral3Config(
        vision_config={
            "model_type": "pixtral", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "head_dim": 8, "image_size": 84, "patch_size": 7,
        },
        text_config={
            "model_type": "mistral", "vocab_size": len(tokenizer), **TEXT, "head_dim": 8, "sliding_window": None,
        },
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"), spatial_merge_size=2, tie_word_embeddings=False,
    )  # fmt: skip
    return _write(folder, config, processor)


def llava_onevision(folder: Path) -> Path:
    """LLaVA-OneVision: one image in tiles with its padding cut away, several images once each; an answer begins with a
    space more than its prompt ends with.
    """
    tokenizer = tokenizer_of([], {"image_token": "<image>", "video_token": "<video>"})
    points = [[28, 28], [28, 56], [56, 28], [56, 56]]
    images = _class("LlavaOnevisionImageProcessor")(size={"height": 28, "width": 28}, image_grid_pinpoints=points)
    videos = _class("LlavaOnevisionVideoProcessor")(size={"height": 28, "width": 28})
    processor = transformers.LlavaOnevisionProcessor(
        images, tokenizer, videos, num_image_tokens=4, vision_feature_select_strategy="full",
        chat_template=LLAVA_ONEVISION,
    )  # fmt: skip
    config = transformers.LlavaOnevisionConfig(
        vision_config={
            "model_type": "siglip_vision_model", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
            "num_attention_heads": 2, "image_size": 28, "patch_size": 14, "vision_use_head": False,
        },
        text_config={"model_type": "qwen2", "vocab_size": len(tokenizer), **TEXT},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=points, vision_feature_layer=-1, vision_feature_select_strategy="full",
    )  # fmt: skip
    return _write(folder, config, processor)


def _splitting(folder: Path, kind: str) -> Path:
    rows = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    special = ["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", *rows]
    tokenizer = tokenizer_of(
        special, merges=[("\u010a", "\u010a")]
    )  # two line ends are one token, as in published ones
    images = _class(f"{kind}ImageProcessor")(size={"longest_edge": 56}, max_image_size={"longest_edge": 28})
    parts = [images, tokenizer] if kind == "Idefics3" else [images, tokenizer, _class("SmolVLMVideoProcessor")()]
    processor = getattr(transformers, f"{kind}Processor")(*parts, image_seq_len=4, chat_template=template("<image>"))
    config = getattr(transformers, f"{kind}Config")(
        vision_config={
            "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
            "image_size": 28, "patch_size": 7,
        },
        text_config={"model_type": "llama", "vocab_size": len(tokenizer), **TEXT, "pad_token_id": 0},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"), scale_factor=2, pad_token_id=0,
    )  # fmt: skip
    return _write(folder, config, processor)


def idefics3(folder: Path) -> Path:
    """Idefics3: images cut into named pieces and shown once more as a whole."""
    return _splitting(folder, "Idefics3")


def smolvlm(folder: Path) -> Path:
    """SmolVLM: as Idefics3, with videos."""
    return _splitting(folder, "SmolVLM")


def glm4v(folder: Path) -> Path:
    """GLM-4.1V: grids of any shape, M-RoPE; transformers repeats encoded images in another order than rows."""
    return _glm(folder, "Glm4v")


def glm4v_moe(folder: Path) -> Path:
    """GLM-4.5V: a layer without experts, and one with some that are one parameter and one that is shared."""
    experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1, "n_group": 1, "topk_group": 1}
    return _glm(folder, "Glm4vMoe", **experts, moe_intermediate_size=16, first_k_dense_replace=1, head_dim=16)


def glm46v(folder: Path) -> Path:
    """GLM-4.6V: as GLM-4.1V, with a processor of its own."""
    return _glm(folder, "Glm46V")


def _glm(folder: Path, kind: str, **text: Any) -> Path:
    special = [
        "<|begin_of_image|>",
        "<|end_of_image|>",
        "<|image|>",
        "<|begin_of_video|>",
        "<|end_of_video|>",
        "<|video|>",
    ]
    tokenizer = tokenizer_of(special)
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in special}
    cell = 28**2 * 2  # of two frames
    parts = kind if kind == "Glm46V" else "Glm4v"
    images = _class(f"{parts}ImageProcessor")(size={"shortest_edge": cell, "longest_edge": cell * 12})
    processor = _class(f"{parts}Processor")(
        images,
        tokenizer,
        _class(f"{parts}VideoProcessor")(),
        chat_template=template("<|begin_of_image|><|image|><|end_of_image|>"),
    )
    config = getattr(transformers, f"{kind}Config")(
        text_config={
            "vocab_size": len(tokenizer), **TEXT, "pad_token_id": 0,
            "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0},
            **text,
        },
        vision_config={
            "depth": 2, "hidden_size": 16, "num_heads": 2, "image_size": 56, "out_hidden_size": 32,
            "intermediate_size": 32,
        },
        image_token_id=ids["<|image|>"], video_token_id=ids["<|video|>"],
        image_start_token_id=ids["<|begin_of_image|>"], image_end_token_id=ids["<|end_of_image|>"],
        video_start_token_id=ids["<|begin_of_video|>"], video_end_token_id=ids["<|end_of_video|>"],
    )  # fmt: skip
    return _write(folder, config, processor)


def mllama(folder: Path, gate: float = 0.0) -> Path:
    """Llama 3.2 Vision: images are read by cross attention, whose mask has a row for each answer."""
    tokenizer = tokenizer_of(["<|image|>", "<|python_tag|>"])
    images = _class("MllamaImageProcessor")(size={"height": 28, "width": 28}, max_image_tiles=4)
    processor = transformers.MllamaProcessor(images, tokenizer, chat_template=template("<|image|>"))
    config = transformers.MllamaConfig(
        vision_config={
            "hidden_size": 16, "num_hidden_layers": 2, "num_global_layers": 1, "attention_heads": 2,
            "intermediate_size": 32, "image_size": 28, "patch_size": 14, "intermediate_layers_indices": [0, 1],
            "vision_output_dim": 48,
        },
        text_config={
            "vocab_size": len(tokenizer), **TEXT, "num_hidden_layers": 3, "cross_attention_layers": [1],
            "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
        image_token_index=tokenizer.convert_tokens_to_ids("<|image|>"),
    )  # fmt: skip
    return _write(folder, config, processor, gate)


def mllama_gated(folder: Path) -> Path:
    """As ``mllama``, with gates as trained models have them: at 0, where they start, images change nothing."""
    return mllama(folder, gate=1.0)


def molmo2(folder: Path) -> Path:
    """Molmo2: image tokens name the crops that they pool by index in the batch, and attend to each other."""
    special = [
        "<|image|>", "<|video|>", "<im_patch>", "<im_col>", "<im_start>", "<low_res_im_start>", "<frame_start>",
        "<im_end>", "<frame_end>", "<im_low>",
    ]  # fmt: skip
    tokenizer = tokenizer_of(special)
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in special}
    images = _class("Molmo2ImageProcessor")(
        size={"height": 28, "width": 28}, patch_size=7, max_crops=2, overlap_margins=[1, 1], pooling_size=[2, 2]
    )
    videos = _class("Molmo2VideoProcessor")(size={"height": 28, "width": 28}, patch_size=7)
    processor = transformers.Molmo2Processor(images, videos, tokenizer, chat_template=template("<|image|>"))
    config = transformers.Molmo2Config(
        vision_config={
            "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 2, "head_dim": 8, "image_size": [28, 28], "patch_size": 7,
        },
        adapter_config={
            "vision_feature_layer": [-1], "hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2,
            "head_dim": 8, "intermediate_size": 32, "text_hidden_size": 32,
        },
        text_config={"vocab_size": len(tokenizer), "additional_vocab_size": 4, **TEXT, "head_dim": 8},
        image_start_token_id=ids["<im_start>"], low_res_image_start_token_id=ids["<low_res_im_start>"],
        image_end_token_id=ids["<im_end>"], image_patch_id=ids["<im_patch>"],
        frame_start_token_id=ids["<frame_start>"], frame_end_token_id=ids["<frame_end>"],
    )  # fmt: skip
    return _write(folder, config, processor)


def paligemma(folder: Path, chat: str | None = template("<image>")) -> Path:
    """PaliGemma: the whole prompt attends to itself, the answer only backwards; it is published without a template."""
    tokenizer = tokenizer_of(["<image>"])
    images = transformers.SiglipImageProcessorPil(size={"height": 28, "width": 28})
    images.image_seq_length = 4
    processor = transformers.PaliGemmaProcessor(images, tokenizer, chat_template=chat)
    config = transformers.PaliGemmaConfig(
        vision_config={
            "model_type": "siglip_vision_model", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
            "num_attention_heads": 2, "image_size": 28, "patch_size": 14, "projection_dim": 32,
        },
        text_config={"model_type": "gemma", "vocab_size": len(tokenizer), **TEXT, "head_dim": 8},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"), projection_dim=32,
    )  # fmt: skip
    return _write(folder, config, processor)


def deepseek_vl(folder: Path) -> Path:
    """DeepSeek-VL: its image features are computed by its inner model alone."""
    tokenizer = tokenizer_of([], {"image_token": "<image_placeholder>"})
    images = transformers.DeepseekVLImageProcessorPil(size={"height": 28, "width": 28})
    processor = transformers.DeepseekVLProcessor(
        images, tokenizer, num_image_tokens=4, chat_template=template("<image_placeholder>")
    )
    config = transformers.DeepseekVLConfig(
        vision_config={
            "model_type": "siglip_vision_model", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
            "num_attention_heads": 2, "image_size": 28, "patch_size": 14,
        },
        text_config={"model_type": "llama", "vocab_size": len(tokenizer), **TEXT, "pad_token_id": 0},
        image_token_id=tokenizer.convert_tokens_to_ids("<image_placeholder>"),
    )  # fmt: skip
    return _write(folder, config, processor)


def minicpm_v(folder: Path) -> Path:
    """MiniCPM-V 4.6: the patches of all images lie in one line, and some layers carry a state from token to token."""
    named = {
        "image_token": "<|image_pad|>", "video_token": "<|video_pad|>", "image_start_token": "<image>",
        "image_end_token": "</image>", "slice_start_token": "<slice>", "slice_end_token": "</slice>",
        "image_id_start_token": "<image_id>", "image_id_end_token": "</image_id>",
    }  # fmt: skip
    tokenizer = tokenizer_of([], named)
    options: dict[str, Any] = {"patch_size": 7, "scale_resolution": 56, "max_slice_nums": 2}
    images = transformers.MiniCPMV4_6ImageProcessorPil(**options)
    videos = _class("MiniCPMV4_6VideoProcessor")(**options)
    processor = transformers.MiniCPMV4_6Processor(images, videos, tokenizer, chat_template=template("<|image_pad|>"))
    config = transformers.MiniCPMV4_6Config(
        vision_config={
            "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
            "image_size": 56, "patch_size": 7,
        },
        text_config={
            "model_type": "qwen3_5_text", "vocab_size": len(tokenizer), **TEXT, "head_dim": 8,
            "layer_types": ["linear_attention", "full_attention"], "linear_key_head_dim": 8,
            "linear_value_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 2,
            "pad_token_id": 0,
        },
        insert_layer_id=0, image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
    )  # fmt: skip
    return _write(folder, config, processor)


def ernie(folder: Path) -> Path:
    """Ernie 4.5 VL: text and images have experts of their own, chosen by an input with a value for each token."""
    named = {
        "image_token": "<|IMAGE_PLACEHOLDER|>", "image_start_token": "<|IMAGE_START|>",
        "image_end_token": "<|IMAGE_END|>", "video_token": "<|VIDEO_PLACEHOLDER|>",
        "video_start_token": "<|VIDEO_START|>", "video_end_token": "<|VIDEO_END|>",
    }  # fmt: skip
    tokenizer = tokenizer_of([], named)
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in named.items()}
    images = transformers.Ernie4_5_VLMoeImageProcessorPil(
        patch_size=7, size={"shortest_edge": 196, "longest_edge": 784}
    )
    videos = _class("Ernie4_5_VLMoeVideoProcessor")(patch_size=7, draw_on_frames=False)
    processor = transformers.Ernie4_5_VLMoeProcessor(
        images, tokenizer, videos,
        chat_template=template("<|IMAGE_START|><|IMAGE_PLACEHOLDER|>", after="<|IMAGE_END|>"),
    )  # fmt: skip
    config = transformers.Ernie4_5_VLMoeConfig(
        vision_config={
            "depth": 2, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "patch_size": 7,
        },
        text_config={
            "vocab_size": len(tokenizer), **TEXT, "moe_intermediate_size": [16, 8], "moe_k": 2, "moe_num_experts": 4,
            "moe_num_shared_experts": 1, "pad_token_id": 0,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]},
        },
        **{f"{name}_id": value for name, value in ids.items()},
    )  # fmt: skip
    return _write(folder, config, processor)


def _class(name: str) -> Any:
    """A processor's class; importing it tells what it needs."""
    return getattr(transformers, name)


BUILDERS: dict[str, Callable[[Path], Path]] = {
    function.__name__: function
    for function in (internvl, qwen2_vl, qwen2_5_vl, qwen3_vl, llava_onevision, mistral3, idefics3, smolvlm)
}

ANSWERS_ONLY: dict[str, Callable[[Path], Path]] = {
    function.__name__: function for function in (glm4v, glm4v_moe, glm46v, mllama, qwen3_vl_moe)
}
"""Architectures that answer, and of which no test trains."""


OTHERS: dict[str, Callable[[Path], Path]] = {
    function.__name__: function for function in (molmo2, mllama_gated, paligemma, deepseek_vl, minicpm_v, ernie)
}
"""Those with something of their own: not all their rows can share a pass, or their features cannot be stored."""


def built(name: str, folder: Path) -> Path:
    """The checkpoint of an architecture; skips only where its processor needs torchvision and there is none."""
    try:
        return (BUILDERS | ANSWERS_ONLY | OTHERS)[name](folder)
    except ImportError:
        if importlib.util.find_spec("torchvision") is not None:
            raise
        pytest.skip(f"the processor of {name} needs torchvision: pip install 'mis-workbench[vlm]'")
