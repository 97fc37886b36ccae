"""Answers that were paid for stay findable: they are stored under the same keys as before there was one client."""

import asyncio
import base64
import dataclasses
import io
import json
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.fake_server import FakeServer, Script
from support.tiny import tiny_text_model

from mis_lib.clients.cache import Cache
from mis_lib.clients.images import encode
from mis_lib.clients.local import LocalChat
from mis_lib.clients.openai import ServerChat, open_client
from mis_lib.clients.protocol import AnswerForm, CannotAnswer, ChatAsk, Classified, Labels, Unavailable, digest_bytes
from mis_lib.files import digest_json


class Found(Exception):
    """What was looked for in the cache."""


class Watched(Cache):
    async def once(self, question: Any, pay: Any, older: Any = None) -> dict[str, Any]:
        raise Found(*(one for one in (question, older) if one is not None))


class Grade(AnswerForm):
    verdict: str


ASK = ChatAsk(
    task="judge", system="s", user="u", form=Grade, images=(b"\x89PNG",), seed=3, max_tokens=64, temperature=0.5
)
SAID = [{"role": "user", "content": "é?"}]
LABELS = Labels(("safe", "unsafe"))
SAID_PLAINLY = "cf52f8f7f7b8bc4c4b196b12ef37bc1c4e80bae67f284548b7ae17287f02f3e5"  # ``SAID`` without ``LABELS``


def looked_for(asking: Coroutine[Any, Any, Any]) -> list[str]:
    """The keys under which an answer is looked for, first to last."""
    with pytest.raises(Found) as found:
        asyncio.run(asking)
    return [digest_json(question) for question in found.value.args]


def test_keys_of_a_server_are_what_they_were(tmp_path: Path) -> None:
    chat = ServerChat(open_client("http://127.0.0.1:1/v1"), "m", Watched(tmp_path))
    asked = (chat.ask(ASK), chat.classify(SAID, 64, LABELS), chat.odds_of_yes("q?", ASK.images))
    assert [looked_for(one) for one in asked] == [
        ["b485f48e95cef64e0803ed935bbc243b1ae07bb89feedbd04c497673c9b82f1b"],
        ["c71c1929a248012970825fc202cb924003d1a5fadad3fd50e43fc18a9e4e65d5", SAID_PLAINLY],
        ["10f57414babcff203c93b14084de60602d62159de16eb181b8c4dd6c4c2076d0"],
    ]


def test_an_image_that_is_scaled_down_has_a_key_of_its_own_and_fits_the_request(tmp_path: Path) -> None:
    large = encode(Image.effect_noise((640, 480), 90).convert("RGB"))
    ask, whole = dataclasses.replace(ASK, images=(large,)), digest_bytes(large)
    script = Script(most_bytes=len(large))
    with FakeServer(script, reply=lambda *asked: '{"verdict": "one"}') as server:
        chats = [ServerChat(open_client(server.url), "m", Cache(tmp_path), pixels) for pixels in (640 * 480, 9_000)]
        with pytest.raises(Unavailable, match=r"with 1 images as too large \(HTTP 413\); send smaller images"):
            asyncio.run(chats[0].ask(ask))
        assert asyncio.run(chats[1].ask(ask)).text == '{"verdict": "one"}'
        url = server.bodies[0]["messages"][1]["content"][0]["image_url"]["url"]
    with Image.open(io.BytesIO(base64.b64decode(url.partition("base64,")[2]))) as sent:
        assert sent.size == (109, 82)
    client = open_client("http://127.0.0.1:1/v1")
    keys = [
        looked_for(ServerChat(client, "m", Watched(tmp_path), n).odds_of_yes("q?", [large])) for n in (307_200, 9_000)
    ]
    assert keys[0] == [digest_json({"odds": "server:m", "question": "q?", "images": [whole]})] != keys[1]


def test_a_guards_replies_that_were_stored_without_probabilities_are_not_paid_for_again(tmp_path: Path) -> None:
    """The files are as the version before wrote them; nothing answers at the server's address."""
    question = "violates it?"
    odds = digest_json({"odds": "server:m", "question": question, "images": []})
    filtered = digest_json({"say": "server:m", "to": [{"role": "user", "content": "filtered"}], "max_tokens": 64})
    said = {"text": "unsafe\nS2", "refusal": None, "finish_reason": "stop", "prompt_tokens": 9, "completion_tokens": 3}
    stored = {
        SAID_PLAINLY: said,
        filtered: said | {"finish_reason": "content_filter"},
        odds: {"odds": [["Yes", 0.5], [" yes", 0.1], ["No", 0.2], ["The", 0.2]]},
    }
    for key, answer in stored.items():
        (tmp_path / key[:2]).mkdir(exist_ok=True)
        (tmp_path / key[:2] / f"{key}.json").write_text(json.dumps(answer))
    cache = Cache(tmp_path)
    chat = ServerChat(open_client("http://127.0.0.1:1/v1", retries=0), "m", cache)
    asked = [{"role": "user", "content": question}]
    assert asyncio.run(chat.classify(SAID, 64, LABELS)) == Classified("unsafe\nS2", {})
    found = asyncio.run(chat.classify(asked, 1, Labels(("yes", "no")))).odds
    assert found == pytest.approx({"yes": 0.6, "no": 0.2})
    with pytest.raises(CannotAnswer, match="filter"):
        asyncio.run(chat.classify([{"role": "user", "content": "filtered"}], 64, LABELS))
    assert (cache.found, cache.paid) == (3, 0)
    with pytest.raises(Unavailable, match="nothing answers"):
        asyncio.run(chat.classify([{"role": "user", "content": "new"}], 64, LABELS))


def test_a_checkpoint_is_asked_under_the_same_keys_but_for_its_name(tmp_path: Path) -> None:
    local = LocalChat(tiny_text_model(tmp_path / "model"), Watched(tmp_path))
    served = ServerChat(open_client("http://127.0.0.1:1/v1"), "m", Watched(tmp_path))
    served.name = local.name
    for of in (
        lambda chat: chat.ask(ASK),
        lambda chat: chat.classify(SAID, 64, LABELS),
        lambda chat: chat.odds_of_yes("q?", ASK.images),
    ):
        assert looked_for(of(local))[0] == looked_for(of(served))[0]
