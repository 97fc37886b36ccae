"""A chat template comes with a checkpoint, and so from strangers: whatever it does ends in an error that names it."""

import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from mis_lib.errors import ModelError
from mis_lib.prompts import apply_template, bound_template, user_message

PRINTS = "{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}"
GOES_ON = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
FAULTS = {
    "reaches out of the sandbox": "{{ ''.__class__.__mro__ }}",
    "a range that is too long": "{% for a in range(10 ** 9) %}x{% endfor %}",
    "calls itself without end": "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
    "divides by zero": "{{ 1 / 0 }}",
    "asks for what is not there": "{{ messages[7].content }}",
    "takes all memory": "{{ 'x' * 10 ** 18 }}",
    "is no jinja": "{% for %}",
}


def processor_of(template: str) -> Any:
    """The part of a processor that prints a template, in transformers' own sandbox."""

    def apply(messages: Any, **options: Any) -> str:
        return render_jinja_template(conversations=[messages], chat_template=template)[0][0]

    return SimpleNamespace(apply_chat_template=apply)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_template_that_fails_is_named(fault: str) -> None:
    with pytest.raises(ModelError, match=r"expected a chat template that prints messages.*chat_template\.jinja"):
        apply_template(processor_of(FAULTS[fault]), [user_message([None], "What is this?")], tokenize=False)


def test_a_template_without_end_is_ended() -> None:
    began = time.monotonic()
    with pytest.raises(ModelError, match=r"it goes on after 0\.5 seconds"):
        bound_template(processor_of(GOES_ON), seconds=0.5)
    while any(thread.name == "chat template" for thread in threading.enumerate()):
        assert time.monotonic() - began < 20
        time.sleep(0.01)


def test_a_template_that_prints_millions_of_characters_is_refused() -> None:
    with pytest.raises(ModelError, match="found: 3,000,000 characters"):
        bound_template(processor_of("{{ 'x' * 3000000 }}"))
    bound_template(processor_of(PRINTS))
    bound_template(processor_of(FAULTS["divides by zero"]))  # named where it is used
