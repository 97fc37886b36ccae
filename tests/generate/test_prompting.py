"""What is said around a question: system prompts of rows and of variants, in every place that asks a model."""

from pathlib import Path
from typing import Any

import pytest
from support.fakes import mini_data
from support.tiny import tiny_adapter, tiny_checkpoint
from transformers import AutoProcessor

from benchmarks.loopback import LoopbackJudge
from mis_lib.files import load_image, read_records
from mis_lib.generate.batch import prompt_lengths
from mis_lib.generate.engine import Engine
from mis_lib.generate.keys import AnswerKeys
from mis_lib.models.load import load_model
from mis_lib.prompts import read_by, to_messages
from mis_lib.recipes.generate import generate_run
from mis_lib.recipes.settings import GenerateSettings
from mis_lib.schema import Sample
from mis_lib.settings import GenerationSettings
from mis_lib.train.encode import Encoder, Example

RULES = "Only speak of milk."
SHORT = GenerationSettings(max_new_tokens=6)
REFUSES = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
LEAVES_OUT = "{% set messages = messages | rejectattr('role', 'equalto', 'system') | list %}"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a toy checkpoint, an adapter and a small data set."""
    folder = tmp_path_factory.mktemp("home")
    tiny_checkpoint(folder / "toy")
    tiny_adapter(folder / "toy", folder / "one", 1)
    mini_data(folder / "data")
    return folder


@pytest.fixture(scope="module")
def ruled(home: Path) -> Sample:
    """An item whose row brings a system prompt."""
    first = read_records(home / "data" / "easy.jsonl", Sample)[0]
    return Sample.model_validate({**first.model_dump(), "system_prompt": RULES})


def settings(home: Path, runs: Path, **more: Any) -> GenerateSettings:
    adapters = {"base": None, "one": home / "one"}
    values = {"checkpoint": home / "toy", "adapters": adapters, "data": home / "data", "splits": ("easy",)}
    return GenerateSettings(**{**values, "generation": SHORT, "batch_size": 4, "runs": runs, **more})


class TestRows:
    """System prompts that rows carry."""

    def test_a_prompt_has_the_turn_of_the_system_before_the_images(self, home: Path, ruled: Sample) -> None:
        engine = Engine(load_model(home / "toy"), pack=False)
        images = [load_image(home / "data" / name) for name in ruled.images]
        asked = to_messages(images, ruled.question, system=RULES)
        whole = engine.processor.apply_chat_template(
            asked, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )["input_ids"][0]
        text = engine.processor.tokenizer.decode(whole)
        assert text.index("system\n") < text.index(RULES) < text.index("<image>") < text.index(ruled.question)
        assert prompt_lengths([ruled], home / "data", engine) == {ruled.id: len(whole)}
        learned = Encoder(engine.processor).prompt(Example(ruled, home / "data"))
        assert learned.ids.tolist() == whole.tolist(), "a row is learned under the prompt that it is asked under"

    @pytest.mark.parametrize("template", [REFUSES, LEAVES_OUT], ids=["refuses", "leaves out"])
    def test_a_template_without_such_a_turn_has_it_before_the_question(self, home: Path, template: str) -> None:
        processor: Any = AutoProcessor.from_pretrained(home / "toy")
        (system, user) = read_by(processor, ["a"], "Why?", f"{RULES}<image>")
        assert system["content"][0]["text"] == f"{RULES}< image>", "a token in a person's text is text"
        processor.chat_template = template + processor.chat_template.replace("in messages %}", "in messages %}", 1)
        (user,) = read_by(processor, ["a"], "Why?", RULES)
        assert [part.get("text") for part in user["content"]] == [None, f"{RULES}\n\nWhy?"]

    def test_answers_under_other_rules_are_other_answers(self, home: Path, ruled: Sample) -> None:
        keys = AnswerKeys(home / "data", "model", {"base": ""}, {})
        bare = ruled.model_copy(update={"system_prompt": ""})
        other = ruled.model_copy(update={"system_prompt": "Anything goes."})
        assert len({keys.of(one, "base") for one in (ruled, bare, other)}) == 3

    def test_a_server_is_sent_it(self, home: Path, ruled: Sample, tmp_path: Path) -> None:
        (tmp_path / "rows.jsonl").write_text(ruled.model_dump_json() + "\n")
        for name in ruled.images:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes((home / "data" / name).read_bytes())
        with LoopbackJudge(reply=lambda body: "Milk.") as server:
            generate_run(
                GenerateSettings(server=f"{server.url}#m", data=tmp_path / "rows.jsonl", runs=tmp_path / "runs")
            )
            system, user = server.bodies[-1]["messages"]
        assert system == {"role": "system", "content": RULES}
        assert user["content"][-1] == {"type": "text", "text": ruled.question}
