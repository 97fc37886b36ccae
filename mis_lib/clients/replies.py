"""The form of what is read of a server's replies: the ``openai`` client checks no types, and servers send anything."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


def check_completion(reply: Any) -> None:
    """Refuse what is no chat completion with a message.

    Raises:
        ValueError: says which field has another form.
    """
    _Completion.model_validate(reply)


def check_chunk(chunk: Any) -> None:
    """Refuse what is no piece of a streamed chat completion; it may lack anything.

    Raises:
        ValueError: says which field has another form.
    """
    _Chunk.model_validate(chunk)


class _Form(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class _Usage(_Form):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Message(_Form):
    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class _Likely(_Form):
    token: str
    logprob: float = Field(le=1, allow_inf_nan=False)


class _Word(_Form):
    top_logprobs: list[_Likely]


class _Logprobs(_Form):
    content: list[_Word] | None = None


class _Choice(_Form):
    message: _Message
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Completion(_Form):
    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None


class _Piece(_Form):
    delta: _Message | None = None
    finish_reason: str | None = None


class _Chunk(_Form):
    choices: list[_Piece] | None = None
    usage: _Usage | None = None
