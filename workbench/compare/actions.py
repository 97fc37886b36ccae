"""What the Compare tab does, without Gradio: each step of a prompt, and a comparison as a generator of what to show.

Errors that a person can act on become lines of the error bar, and what was on the screen stays there.
"""

import random
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mis_lib.errors import DataError, ImageError, MisError, ModelError, SettingsError
from mis_lib.files import MAX_IMAGES, MAX_QUESTION, load_image
from mis_lib.generate.columns import Column, StreamEngine, with_prompts
from mis_lib.generate.prompting import BARE, Prompted, Prompting
from mis_lib.judge.rule import judge
from mis_lib.models.adapters import MAX_COLUMNS
from mis_lib.schema import Sample
from mis_lib.settings import GenerationSettings
from workbench import html
from workbench.background import Phase, explain, follow
from workbench.compare import view
from workbench.compare.comparison import Answer, Comparison
from workbench.examples import OWN_PROMPT, Page
from workbench.host import Host
from workbench.prompt import Prompt, read_images

RETRY = "press Compare to try again"
UNSTARTED = "Stopped before it started."
FAILURES = (MisError, OSError, RuntimeError, ValueError)  # of model, files or settings: shown, the app goes on


@dataclass(frozen=True)
class PromptView:
    """A prompt after a step: its strip, its question (None: unchanged), and the error bar."""

    prompt: Prompt
    strip: str
    question: str | None = None
    errors: str = ""


def show_prompt(host: Host, prompt: Prompt, *, question: str | None = None, problems: Sequence[str] = ()) -> PromptView:
    """The strip of a prompt; an example whose images were changed is no longer called one."""
    catalogue = host.data.value
    sample = catalogue.example(prompt) if catalogue else None
    twin = catalogue.twin(sample) if catalogue and sample else None
    return PromptView(prompt, view.strip(prompt, sample, twin), question, html.error_bar(problems))


def add_images(host: Host, prompt: Prompt, files: Sequence[str]) -> PromptView:
    """Append uploaded files; the error bar names those that are not usable images."""
    images, problems = read_images((Path(file), Path(file).name) for file in files)
    try:
        return show_prompt(host, prompt.add(images), problems=problems)
    except ImageError as error:
        return show_prompt(host, prompt, problems=[*problems, str(error)])


def load_example(host: Host, prompt: Prompt, sample_id: str) -> PromptView:
    """Replace images and question by those of an example."""
    try:
        if host.data.value is None:
            raise DataError("the examples are not ready yet; wait a moment and try again")
        loaded, sample = host.data.value.load(sample_id)
    except (DataError, ImageError) as error:
        return show_prompt(host, prompt, problems=[str(error)])
    return show_prompt(host, loaded, question=sample.question)


def load_random(host: Host, prompt: Prompt, category: str, split: str, words: str) -> PromptView:
    """Load an example drawn from the ones that match the filters."""
    ids = host.data.value.ids(category=category, split=split, words=words) if host.data.value else []
    if not ids:
        return show_prompt(host, prompt, problems=["no example matches the filters; choose another category or split"])
    return load_example(host, prompt, random.choice(ids))


def list_examples(host: Host, category: str, split: str, words: str, *, limit: int = view.MORE) -> str:
    """The example list for the filters, or what is being done to get it."""
    catalogue = host.data.value
    page = catalogue.page(category=category, split=split, words=words, limit=limit) if catalogue else Page((), 0)
    return view.examples(page, host.data.status)


@dataclass(frozen=True)
class View:
    """What a step shows; None leaves a part of the screen as it is."""

    status: str
    errors: str = ""
    pictures: str | None = None
    results: str | None = None
    comparison: Comparison | None = None
    generating: bool = False


def compare(
    host: Host,
    prompt: Prompt,
    question: str,
    variants: Sequence[str],
    settings: dict[str, Any],
    *,
    session: str,
    prompts: Prompting = BARE,
    instead: bool = False,
) -> Iterator[View]:
    """Answer a question with several variants at once, and yield what to show, the last view being the final one.

    ``settings`` are the fields of ``GenerationSettings`` as they come from the form. With ``prompts`` each variant is
    asked without and with them, or ``instead`` with them alone. ``stop`` ends the newest call of a session.
    """
    stop = threading.Event()
    host.stops[session] = stop
    if session in host.left:
        stop.set()
    try:
        chosen, question = GenerationSettings(**settings), question.strip()  # a line break at its end changes answers
        check_request(host, prompt, question, variants)
        columns = columns_of(variants, prompts, instead=instead)
        host.model.start()  # after a failure, this is the next try
        for status in host.model.wait(stop):
            yield View(html.status_line(html.progress(status), busy=True))
        if stop.is_set():
            yield View(html.status_line(UNSTARTED))
            return
        yield from _generate(host, _ready(host), prompt, question, columns, chosen, stop, prompts)
    except FAILURES as error:
        advice = [RETRY] if host.model.status.phase is Phase.FAILED else []
        yield View(html.status_line("Nothing was generated."), errors=html.error_bar([explain(error), *advice]))
    finally:
        if host.stops.get(session) is stop:
            del host.stops[session]


def stop(host: Host, session: str) -> str | None:
    """End what the session has running, within a token; returns the status line where there is nothing to end.

    The comparison that is being stopped writes its own status: a line from here might overtake its last one and remain.
    """
    running = host.stops.get(session)
    if running is None:
        return html.status_line("Nothing is running.")
    running.set()
    return None


def leave(host: Host, session: str) -> bool:
    """Give up a session's place in the queue; False where its turn has come already, and its comparison is stopped."""
    if stop(host, session) is None:
        return False
    host.left.add(session)
    return True


def check_request(host: Host, prompt: Prompt, question: str, variants: Sequence[str]) -> None:
    """Refuse what no model can answer, before waiting for one.

    Raises:
        ImageError: no image, or too many.
        SettingsError: no question, a question that is too long, no variant, too many, or an unknown one.
    """
    if not prompt.images and prompt.example_id is None:  # an item of text has none
        raise ImageError(f"there is no image; pick an example or add 1 to {MAX_IMAGES} images, then press Compare")
    if len(prompt.images) > MAX_IMAGES:
        raise ImageError(f"at most {MAX_IMAGES} images, found {len(prompt.images)}; remove some")
    if not question.strip():
        raise SettingsError("the question is empty; write what you want to ask about the images")
    if len(question) > MAX_QUESTION:
        raise SettingsError(f"the question has {len(question):,} characters, at most {MAX_QUESTION:,}; shorten it")
    if not 1 <= len(variants) <= MAX_COLUMNS:
        raise SettingsError(f"{len(variants)} variants are chosen; tick 1 to {MAX_COLUMNS} of them")
    unknown = [name for name in variants if host.known_variants and name not in host.known_variants]
    if unknown:
        raise SettingsError(f"unknown variant {unknown[0]!r}; known: {', '.join(host.known_variants)}")


def columns_of(variants: Sequence[str], prompts: Prompting, *, instead: bool) -> dict[str, Prompted]:
    """What each column is: a variant as it is, or under the prompts.

    Raises:
        SettingsError: these are too many.
    """
    found: dict[str, Prompted] = {}
    for name in variants:
        if prompts == BARE or not instead:
            found[name] = Prompted(name)
        if prompts != BARE:
            found[f"{name}+{prompts.template or 'system'}"] = Prompted(name, prompts)
    if len(found) > MAX_COLUMNS:
        raise SettingsError(
            f"{len(found)} columns, at most {MAX_COLUMNS}: each variant is asked with and without the prompts; tick "
            "fewer variants, or Only with them"
        )
    return found


def _ready(host: Host) -> StreamEngine:
    if host.model.value is None:
        raise ModelError(f"the model could not be loaded: {host.model.status.message}")
    return host.model.value


def _generate(
    host: Host,
    engine: StreamEngine,
    prompt: Prompt,
    question: str,
    columns: Mapping[str, Prompted],
    settings: GenerationSettings,
    stop: threading.Event,
    prompts: Prompting,
) -> Iterator[View]:
    images = [load_image(image.path, name=image.name) for image in prompt.images]
    sample, why = host.data.value.match(prompt, question) if host.data.value else (None, OWN_PROMPT)
    served = {name: host.served.get(one.base) for name, one in columns.items()}
    answers = tuple(Answer(name, "", 0, 0.0, None, served=served[name]) for name in columns)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    comparison = Comparison(prompt, question, settings, answers, sample, now, host.checkpoint, prompts, columns)
    engine = with_prompts(engine, columns)
    yield replace(_running_view(comparison), pictures=view.pictures(comparison))
    for found in follow(engine, images, question, list(columns), settings, lock=host.lock, stop=stop):
        if found:
            answers = (replace(_answer(host, one, sample, why), served=served[one.variant]) for one in found)
            comparison = replace(comparison, answers=tuple(answers))
        yield _running_view(comparison, stopping=stop.is_set())
    yield _final_view(comparison)


def _answer(host: Host, column: Column, sample: Sample | None, why: str) -> Answer:
    """A column as an answer, with its verdict once it has ended and the truth is known."""
    answer = Answer(**vars(column), served=host.served.get(column.variant))
    if column.finish_reason is None or answer.failed:
        return answer
    if column.finish_reason == "cancelled":
        return replace(answer, no_verdict="the answer was stopped before its end")
    if sample is None:
        return replace(answer, no_verdict=why)
    return replace(answer, verdict=judge(sample, answer.response(sample.id)))


def _running_view(comparison: Comparison, *, stopping: bool = False) -> View:
    count = len(comparison.answers)
    text = f"Answering with {count} variant{'s' if count > 1 else ''} at once …"
    return View(
        html.status_line("Stopping …" if stopping else text, busy=True),
        results=view.results(comparison),
        comparison=comparison,
        generating=True,
    )


def _final_view(comparison: Comparison) -> View:
    seconds = max(answer.seconds for answer in comparison.answers)
    counted = {unit: sum(one.tokens for one in comparison.answers if one.unit == unit) for unit in ("tokens", "chunks")}
    amount = " and ".join(f"{count} {unit}" for unit, count in counted.items() if count) or "0 tokens"
    failed = sum(answer.failed for answer in comparison.answers)
    stopped = any(answer.finish_reason == "cancelled" for answer in comparison.answers)
    text = f"{'Stopped' if stopped else 'Done'} after {seconds:.1f} s: {amount} in {len(comparison.answers)} columns."
    if failed:
        text += f" {failed} failed: the column says why."
    if cut := sum(answer.finish_reason == "length" for answer in comparison.answers):
        text += f" {cut} cut at {comparison.settings.max_new_tokens:,} tokens: raise Max tokens in Generation settings."
    return View(html.status_line(text), results=view.results(comparison), comparison=comparison)
