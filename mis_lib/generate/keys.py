"""The key of an answer: a digest of model, adapter, settings and what is asked, the content of every image included.

Two answers with one key are the same answer, in whatever run or file they are. So no answer is generated twice.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mis_lib.data.formats import system_prompt
from mis_lib.errors import ImageError
from mis_lib.files import digest_json, sha256
from mis_lib.generate.prompting import BARE, Prompting
from mis_lib.prompts import to_messages
from mis_lib.schema import Sample

NONE_SCALED: Mapping[str, int] = {}


class AnswerKeys:
    """Keys of the answers of one run; each image file is hashed once.

    Args:
        data_dir: folder to which the samples' image paths are relative.
        model: digest of the checkpoint, or address-free name of the served model.
        variants: digest of each variant's adapter.
        settings: of generation and of whatever else an answer may follow from, as JSON values.
        scaled: images that are scaled down before they are shown, and the most pixels that they may have then.
        prompting: of the variants that have one.
        defences: of the variants that have one, as JSON values.
    """

    def __init__(
        self,
        data_dir: Path,
        model: str,
        variants: Mapping[str, str],
        settings: Mapping[str, Any],
        scaled: Mapping[str, int] = NONE_SCALED,
        prompting: Mapping[str, Prompting] = MappingProxyType({}),
        defences: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self._data_dir, self._model, self._variants, self._settings = data_dir, model, dict(variants), dict(settings)
        self._scaled, self._prompting, self._defences = scaled, prompting, defences
        self._images: dict[str, str] = {}

    def of(self, sample: Sample, variant: str) -> str:
        """The key of one variant's answer to one sample.

        Raises:
            ImageError: an image is not there.
        """
        images = [self._digest(name) for name in sample.images]
        question, system = self._prompting.get(variant, BARE).asked(sample.question, system_prompt(sample))
        messages = to_messages(images, question, system=system)
        more = {"defence": self._defences[variant]} if variant in self._defences else {}
        if sample.history:
            more["history"] = [turn.model_dump(mode="json") for turn in sample.history]
        return answer_key(self._model, self._variants[variant], messages, {**self._settings, **more})

    def _digest(self, name: str) -> str:
        if name not in self._images:
            try:
                whole = sha256(self._data_dir / name)
            except OSError as error:
                raise ImageError(
                    f"{self._data_dir / name}: expected an image file, found: {error.strerror}; check the path"
                ) from error
            pixels = self._scaled.get(name)
            self._images[name] = whole if pixels is None else f"{whole} scaled to {pixels}"
        return self._images[name]


def answer_key(model: str, adapter: str, messages: Any, settings: Mapping[str, Any]) -> str:
    """SHA-256 over the canonical JSON of model, adapter, messages (with image hashes for images) and settings."""
    asked = {"model": model, "adapter": adapter, "messages": messages, "settings": dict(settings)}
    return digest_json(asked)
