"""The one place that turns a question about images into chat messages, for training and generation alike.

All images of a turn come before its text, in order, as in the paper's inference scripts (DripNowhy/MIS, evaluation/).
Each model's chat template decides how images are numbered inside the prompt.
"""

import ctypes
import re
import threading
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from jinja2 import TemplateError

from mis_lib.errors import ModelError

Message = dict[str, Any]

_EXPECTED = "expected a chat template that prints messages with images and text, found:"
_OTHER_TEMPLATE = "Put the chat_template.jinja of the model's chat version into the checkpoint's folder"

TRIAL = "Trial of a system turn."
"""What no chat template prints by itself."""

TEMPLATE_FAULTS = (
    TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError, MemoryError, TemplateError
)  # fmt: skip
"""What a chat template can end in; jinja's sandbox refuses with a ``TemplateError`` or an ``OverflowError``."""
TEMPLATE_SECONDS = 20.0
LONGEST_PROMPT = 2**20  # characters for a short question

KNOWN_SPECIAL_TOKENS = (
    "<image>", "<video>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|image_pad|>", "<|vision_start|>",
    "<|vision_end|>", "<|video_pad|>", "<IMG_CONTEXT>", "<img>", "</img>", "<|begin_of_text|>", "<|eot_id|>",
    "<|start_header_id|>", "<|end_header_id|>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>",
    "<end_of_image>", "<image_soft_token>", "<bos>", "<eos>", "<end_of_utterance>", "<fake_token_around_image>",
    "<|image|>", "[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]", "<s>", "</s>",
)  # fmt: skip
"""What common templates and processors read as something else than text; for models whose tokenizer is not at hand."""


class Past(NamedTuple):
    """One exchange before a question."""

    question: str
    answer: str
    images: int = 0
    """How many of the dialogue's images it shows: the next ones in order."""


def user_message(images: Sequence[Any], question: str) -> Message:
    """One user turn in transformers' typed-content form; ``images`` are PIL images, paths or placeholders, in order."""
    content: list[dict[str, Any]] = [{"type": "image", "image": image} for image in images]
    return {"role": "user", "content": [*content, {"type": "text", "text": question}]}


def assistant_message(answer: str) -> Message:
    """The assistant's turn with a plain text answer."""
    return {"role": "assistant", "content": [{"type": "text", "text": answer}]}


def system_message(text: str) -> Message:
    """The system's turn, which precedes the user's."""
    return {"role": "system", "content": [{"type": "text", "text": text}]}


def to_messages(
    images: Sequence[Any],
    question: str,
    answer: str | None = None,
    *,
    system: str = "",
    history: Sequence[Past] = (),
) -> list[Message]:
    """Messages for a question about images; a system turn before it and an answer after it, where they are given.

    ``images`` are those of all turns, in order; what no exchange of the ``history`` shows belongs to the question.
    """
    turns, left = [system_message(system)] if system else [], list(images)
    for past in history:
        turns += [user_message(left[: past.images], past.question), assistant_message(past.answer)]
        left = left[past.images :]
    turns.append(user_message(left, question))
    return turns if answer is None else [*turns, assistant_message(answer)]


def read_by(
    processor: Any, images: Sequence[Any], question: str, system: str = "", history: Sequence[Past] = ()
) -> list[Message]:
    """The turns of a question as the chat template of a processor can print them, without special tokens.

    A template that prints no system turn (LLaVA-1.5's) finds the system prompt before the first question, in the user's
    turn; one that prints no typed parts of an earlier answer finds it as a string.
    """
    special = special_tokens(processor)
    question, system = as_plain_text(question, special), as_plain_text(system, special)
    history = [
        Past(as_plain_text(past.question, special), as_plain_text(past.answer, special), past.images)
        for past in history
    ]
    if system and not reads_system(processor):
        if history:
            history[0] = history[0]._replace(question=f"{system}\n\n{history[0].question}")
        else:
            question = f"{system}\n\n{question}"
        system = ""
    turns = to_messages(images, question, system=system, history=history)
    if history and not _reads_parts_of_answers(processor):
        return [
            {**turn, "content": turn["content"][0]["text"]} if turn["role"] == "assistant" else turn for turn in turns
        ]
    return turns


def _reads_parts_of_answers(processor: Any) -> bool:
    """Whether the chat template of a processor prints the typed parts of an assistant's turn."""
    try:
        return TRIAL in apply_template(processor, to_messages([None], "?", TRIAL), tokenize=False)
    except ModelError:
        return False


def reads_system(processor: Any) -> bool:
    """Whether the chat template of a processor prints a system turn; some refuse one, some leave it out."""
    try:
        return TRIAL in apply_template(processor, to_messages([None], "?", system=TRIAL), tokenize=False)
    except ModelError:
        return False


def apply_template(processor: Any, messages: Sequence[Any], **options: Any) -> Any:
    """``processor.apply_chat_template``, whose failures name the template.

    Raises:
        ModelError: the checkpoint has no chat template, or it cannot print content in typed parts.
    """
    try:
        made = processor.apply_chat_template(messages, **options)
    except TEMPLATE_FAULTS as error:
        if options.get("tokenize"):
            for turns in messages if isinstance(messages[0], list) else [messages]:
                apply_template(processor, turns, add_generation_prompt=True)  # raises if the template is the reason
            raise
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{_EXPECTED} {first}. {_OTHER_TEMPLATE}") from error
    if isinstance(made, str) and (part := _printed_as_data(messages, made)):
        raise ModelError(f"{_EXPECTED} that it prints {part}. {_OTHER_TEMPLATE}")
    return made


def bound_template(processor: Any, *, seconds: float = TEMPLATE_SECONDS) -> None:
    """Refuse a chat template that goes on without end; it comes with a checkpoint, and so from strangers.

    It prints a short question once. What else is wrong with it is named where it is used (``apply_template``).

    Raises:
        ModelError: it takes longer than ``seconds``, or prints over ``LONGEST_PROMPT`` characters.
    """
    made: list[str] = []

    def render() -> None:
        with suppress(ModelError, _TooLong):
            made.append(apply_template(processor, to_messages([None], TRIAL), tokenize=False))

    thread = threading.Thread(target=render, name="chat template", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(_TooLong))
        raise ModelError(f"{_EXPECTED} that it goes on after {seconds:g} seconds. {_OTHER_TEMPLATE}")
    if made and len(made[0]) > LONGEST_PROMPT:
        raise ModelError(f"{_EXPECTED} {len(made[0]):,} characters for a short question. {_OTHER_TEMPLATE}")


class _TooLong(Exception):
    """Ends a template that goes on."""


def known_variables(processor: Any, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Those of the variables for a chat template that the template of a processor reads.

    A processor takes any other for an option of its own.
    """
    template = processor.chat_template or processor.tokenizer.chat_template or ""
    text = template if isinstance(template, str) else " ".join(template.values())
    return {name: value for name, value in (given or {}).items() if re.search(rf"\b{re.escape(name)}\b", text)}


def unknown_variables(processor: Any, given: Mapping[str, Any] | None) -> str:
    """What to say of variables that the chat template does not read; empty where it reads all."""
    names = sorted((given or {}).keys() - known_variables(processor, given).keys())
    return f"the model's chat template does not read {', '.join(names)}" if names else ""


def _printed_as_data(messages: Sequence[Message], text: str) -> str | None:
    """A text part of which a template has printed the Python value, as one made for strings does."""
    parts = (part for message in messages if not isinstance(message["content"], str) for part in message["content"])
    return next((str(part) for part in parts if part["type"] == "text" and str(part) in text), None)


def as_plain_text(text: str, special_tokens: Collection[str]) -> str:
    """Text from people without special tokens: ``<image>`` becomes ``< image>``, which reads the same and is text.

    Tokenizers and processors look for these strings in the whole prompt and cannot know who wrote them. Otherwise a
    question could end its own turn, speak as the assistant, or ask for an image that is not there.
    """
    breakable = [token for token in special_tokens if len(token) > 1 and not token[1].isspace()]
    longest_first = sorted(breakable, key=len, reverse=True)
    if not longest_first:
        return text
    pattern = re.compile("|".join(map(re.escape, longest_first)))
    while pattern.search(text):  # breaking one token can leave another one that overlapped it
        text = pattern.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)
    return text


def special_tokens(processor: Any) -> set[str]:
    """Strings that the processor or its tokenizer reads as something else than text."""
    tokenizer = processor.tokenizer
    added = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    named = {getattr(processor, f"{kind}_token", None) for kind in ("image", "video", "audio")}
    return {
        token for token in {*tokenizer.all_special_tokens, *added, *named} if isinstance(token, str) and token.strip()
    }
