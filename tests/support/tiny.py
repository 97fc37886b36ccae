"""A LLaVA-shaped model of some 50,000 random weights, built offline in under a second: real code at toy size.

``tiny_checkpoint(folder)`` writes a checkpoint in the standard layout, ``tiny_adapter(checkpoint, folder, seed)`` a
PEFT adapter for it whose answers differ from the base's. Byte-level tokens; 4 tokens an image; the chat template is
mini's.
"""

from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from mis_lib.models.mini.assemble import CHAT_TEMPLATE

SPECIAL = ["<pad>", "<|im_start|>", "<|im_end|>", "<image>"]
SIDE, PATCH = 28, 14


def tiny_checkpoint(folder: Path, seed: int = 0) -> Path:
    """Write the checkpoint and return its folder."""
    torch.manual_seed(seed)
    processor = _processor()
    vocabulary = len(processor.tokenizer)
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=PATCH,
    )
    text = LlamaConfig(
        vocab_size=vocabulary, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    image_id = processor.tokenizer.convert_tokens_to_ids("<image>")
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=image_id, image_token_id=image_id,
        vision_feature_select_strategy="full", vision_feature_layer=-1, image_seq_length=(SIDE // PATCH) ** 2 + 1,
    )  # fmt: skip
    model = LlavaForConditionalGeneration(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(4.0)  # larger steps between logits, so that greedy choices do not hang on rounding
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 2, 0
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def tiny_adapter(checkpoint: Path, folder: Path, seed: int) -> Path:
    """Write a random LoRA adapter of the decoder and return its folder."""
    model = AutoModelForImageTextToText.from_pretrained(checkpoint)
    torch.manual_seed(seed)
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=r".*language_model.*\.(q_proj|v_proj|down_proj)", init_lora_weights=False
    )
    get_peft_model(model, config).save_pretrained(folder)
    return folder


def tiny_text_model(folder: Path) -> Path:
    """Write a Llama-shaped text model of random weights and return its folder."""
    torch.manual_seed(0)
    tokenizer = _processor().tokenizer
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _processor() -> LlavaProcessor:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={sign: i for i, sign in enumerate([*SPECIAL, *letters])}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<|im_start|>", eos_token="<|im_end|>",
        additional_special_tokens=["<image>"],
    )  # fmt: skip
    square = {"height": SIDE, "width": SIDE}
    images = CLIPImageProcessorPil(size=square, crop_size=square, do_center_crop=False)
    return LlavaProcessor(
        image_processor=images, tokenizer=fast, patch_size=PATCH, vision_feature_select_strategy="full",
        num_additional_image_tokens=1, image_token="<image>", chat_template=CHAT_TEMPLATE,
    )  # fmt: skip
