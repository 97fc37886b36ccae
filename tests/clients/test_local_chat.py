"""Chat models on this machine."""

import asyncio
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from support.tiny import tiny_checkpoint
from transformers import AutoModelForImageTextToText

from mis_lib.clients.cache import Cache
from mis_lib.clients.local import LocalChat
from mis_lib.clients.protocol import AnswerForm, CannotAnswer, ChatAsk


class Grade(AnswerForm):
    verdict: str


def test_a_judge_in_bfloat16_is_shown_pixels_of_its_type(tmp_path: Path) -> None:
    """Most published checkpoints are in bfloat16; some towers take pixels of another type for an error."""
    folder = tiny_checkpoint(tmp_path / "model")
    AutoModelForImageTextToText.from_pretrained(folder).to(torch.bfloat16).save_pretrained(folder)
    chat = LocalChat(folder, Cache(tmp_path / "asked"))
    seen: list[torch.dtype] = []

    def watch(_: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        seen.append((*given, named.get("pixel_values"))[0].dtype)

    chat.loaded[0].model.vision_tower.register_forward_pre_hook(watch, with_kwargs=True)
    picture = io.BytesIO()
    Image.new("RGB", (16, 16)).save(picture, "PNG")
    asked = ChatAsk(task="judge", system="s", user="u", form=Grade, images=(picture.getvalue(),), max_tokens=2)
    with pytest.raises(CannotAnswer, match="no usable answer"):
        asyncio.run(chat.ask(asked))
    assert set(seen) == {torch.bfloat16}
