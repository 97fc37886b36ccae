"""Answers that were paid for stay findable: they are stored under the same keys as before there was one client."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from support.tiny import tiny_text_model

from mis_lib.clients.cache import Cache
from mis_lib.clients.local import LocalChat
from mis_lib.clients.openai import ServerChat, open_client
from mis_lib.clients.protocol import AnswerForm, ChatAsk
from mis_lib.files import digest_json


class Found(Exception):
    """What was looked for in the cache."""


class Watched(Cache):
    async def once(self, question: Any, pay: Any) -> dict[str, Any]:
        raise Found(question)


class Grade(AnswerForm):
    verdict: str


ASK = ChatAsk(
    task="judge", system="s", user="u", form=Grade, images=(b"\x89PNG",), seed=3, max_tokens=64, temperature=0.5
)
SAID = [{"role": "user", "content": "é?"}]


def looked_for(asking: Coroutine[Any, Any, Any]) -> Any:
    with pytest.raises(Found) as found:
        asyncio.run(asking)
    return found.value.args[0]


def test_keys_of_a_server_are_what_they_were(tmp_path: Path) -> None:
    chat = ServerChat(open_client("http://127.0.0.1:1/v1"), "m", Watched(tmp_path))
    asked = (chat.ask(ASK), chat.say(SAID, 64), chat.odds_of_yes("q?", ASK.images))
    assert [digest_json(looked_for(one)) for one in asked] == [
        "b485f48e95cef64e0803ed935bbc243b1ae07bb89feedbd04c497673c9b82f1b",
        "cf52f8f7f7b8bc4c4b196b12ef37bc1c4e80bae67f284548b7ae17287f02f3e5",
        "10f57414babcff203c93b14084de60602d62159de16eb181b8c4dd6c4c2076d0",
    ]


def test_a_checkpoint_is_asked_under_the_same_keys_but_for_its_name(tmp_path: Path) -> None:
    local = LocalChat(tiny_text_model(tmp_path / "model"), Watched(tmp_path))
    served = ServerChat(open_client("http://127.0.0.1:1/v1"), "m", Watched(tmp_path))
    served.name = local.name
    for of in (
        lambda chat: chat.ask(ASK),
        lambda chat: chat.say(SAID, 64),
        lambda chat: chat.odds_of_yes("q?", ASK.images),
    ):
        assert looked_for(of(local)) == looked_for(of(served))
