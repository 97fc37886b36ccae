"""Budget: how many tokens the rows of a data set will cost a given model, before anything is loaded.

A checkpoint on this machine (a folder, or a hub id in the local cache) is counted exactly: its processor's image settings, its chat template
and its tokenizer. A model known only by its published name is counted from published settings, its text at four characters a
token (which overestimates English a little).
"""

import json
import math
import re
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import jinja2.sandbox
from tokenizers import Tokenizer

from mis_lib.data.memory import SHAPES, Shape
from mis_lib.data.vision_families import from_checkpoint, known
from mis_lib.data.vision_tokens import ImageTokens
from mis_lib.errors import ModelError

CHARACTERS_A_TOKEN = 4
CHATML_TOKENS = 21  # a default system turn and the marks of two turns, in Qwen's vocabulary
EXCHANGE_TOKENS = 10  # the marks of two turns more
IMAGE_MARKS = ("<image>", "<|vision_start|><|image_pad|><|vision_end|>", "<IMG_CONTEXT>", "<|image_pad|>")


class Budget(NamedTuple):
    """One model's way of counting."""

    name: str
    image_tokens: ImageTokens
    context: int | None
    """Tokens that the model can read."""
    shape: Shape | None
    tokenizer: Tokenizer | None = None
    template: jinja2.Template | None = None

    @property
    def is_exact(self) -> bool:
        """Whether texts are counted by the model's own tokenizer and template."""
        return self.tokenizer is not None and self.template is not None

    def text_tokens(self, rows: Sequence[tuple[int, str, str | None]]) -> list[int]:
        """Text tokens of each row (number of images, question, answer), template included, image tokens left out."""
        texts = [self._rendered(*row) for row in rows]
        marks = 0 if self.template is not None else CHATML_TOKENS
        if self.tokenizer is None:
            return [marks + estimate(text) for text in texts]
        return [marks + len(found) for found in self.tokenizer.encode_batch(texts, add_special_tokens=False)]

    @property
    def exchange_tokens(self) -> int:
        """What the template adds for a further question and its answer, whose words are counted with the others."""
        if self.template is None or self.tokenizer is None:
            return EXCHANGE_TOKENS
        one, two = (
            self.tokenizer.encode(_render(self.template, 0, "a", "b", further=further), add_special_tokens=False)
            for further in (0, 1)
        )
        return max(0, len(two) - len(one) - 2)

    def _rendered(self, images: int, question: str, answer: str | None) -> str:
        if self.template is None:
            return f"{question}\n{answer or ''}"
        return _render(self.template, images, question, answer)


def estimate(text: str) -> int:
    """Tokens of a text for want of a tokenizer: one for four ASCII characters, one for each other character."""
    plain = sum(character.isascii() for character in text)
    return math.ceil(plain / CHARACTERS_A_TOKEN) + len(text) - plain


def budget_for(model: str) -> Budget:
    """The way of counting of a checkpoint folder, a hub id or a model name.

    Raises:
        ModelError: nothing is known of such a model, or the checkpoint's files are damaged.
    """
    folder = find_checkpoint(model)
    if folder is None:
        shape = next((shape for pattern, shape in SHAPES.items() if re.search(pattern, model.lower())), None)
        return Budget(model, known(model), None, shape)
    config = _json(folder / "config.json")
    processor = {**_json(folder / "preprocessor_config.json"), **_json(folder / "processor_config.json")}
    processor = {**processor, **processor.pop("image_processor", {})}
    text = config.get("text_config") or config.get("llm_config") or config
    tokenizer = folder / "tokenizer.json"
    return Budget(
        model,
        from_checkpoint(config, processor),
        text.get("max_position_embeddings"),
        _shape(folder, config, text),
        Tokenizer.from_file(str(tokenizer)) if tokenizer.is_file() else None,
        _template(folder, processor),
    )


def find_checkpoint(model: str) -> Path | None:
    """The folder of a checkpoint: ``model`` itself, or its snapshot in the hub's local cache; nothing is downloaded.

    Raises:
        ModelError: there is such a folder, and it holds no checkpoint.
    """
    folder = Path(model)
    if (folder / "config.json").is_file():
        return folder
    if folder.is_dir():
        raise ModelError(
            f"--model {model}: expected a checkpoint folder, found no config.json in it; name its parent or child"
        )
    if re.fullmatch(r"[\w.-]+/[\w.-]+", model):
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(model, "config.json")
        return Path(cached).parent if isinstance(cached, str) else None
    return None


def _shape(folder: Path, config: Mapping[str, Any], text: Mapping[str, Any]) -> Shape | None:
    """Shape of a checkpoint; its weights are counted in their files' headers."""
    parameters = sum(_weights_in(file) for file in sorted(folder.glob("*.safetensors")))
    heads = text.get("num_attention_heads") or 1
    wanted = ("hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size")
    if not parameters or any(not text.get(name) for name in wanted):
        return None
    head = text.get("head_dim") or text["hidden_size"] // heads
    precision = str(
        text.get("dtype") or text.get("torch_dtype") or config.get("dtype") or config.get("torch_dtype") or "float32"
    )
    return Shape(
        parameters=parameters,
        hidden=text["hidden_size"],
        layers=text["num_hidden_layers"],
        key_value=(text.get("num_key_value_heads") or heads) * head,
        intermediate=text["intermediate_size"],
        vocabulary=text["vocab_size"],
        weight_bytes=2 if "16" in precision else 4,
    )


def _weights_in(file: Path) -> int:
    """Number of weights in a safetensors file: its header is a length of eight bytes and so much JSON."""
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")


def _template(folder: Path, processor: Mapping[str, Any]) -> jinja2.Template | None:
    """The chat template, compiled in the sandbox that transformers uses, since checkpoints come from strangers."""
    file = folder / "chat_template.jinja"
    source = file.read_text(encoding="utf-8") if file.is_file() else processor.get("chat_template")
    source = source or _json(folder / "chat_template.json").get("chat_template")
    source = source or _json(folder / "tokenizer_config.json").get("chat_template")
    if not isinstance(source, str):
        return None
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    source = re.sub(r"{%-?\s*(end)?generation\s*-?%}", "", source)  # marks the answer for the loss; prints nothing
    try:
        template = environment.from_string(source)
        _render(template, 2, "?", "!")
    except (
        jinja2.TemplateError,
        TypeError,
    ):  # a template for texts only, or one that needs transformers' own functions
        return None
    return template


def _render(template: jinja2.Template, images: int, question: str, answer: str | None, *, further: int = 0) -> str:
    content = [*({"type": "image"} for _ in range(images)), {"type": "text", "text": question}]
    turns: list[dict[str, Any]] = [{"role": "user", "content": content}]
    if answer is not None:
        turns.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    turns += further * [{"role": "user", "content": [{"type": "text", "text": question}]}, turns[-1]]
    text = template.render(messages=turns, add_generation_prompt=answer is None)
    for mark in IMAGE_MARKS:
        text = text.replace(mark, "")
    return text


def _json(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ModelError(f"{file}: expected JSON, found a fault ({error}); fetch the checkpoint again") from error
    return values if isinstance(values, dict) else {}
