"""What the stages of one construction share, and how a stage works on one record.

A ``Context`` holds teachers, prompts and seed. A ``Bench`` works on one record and notes every step; a stage asks its
bench only, so no call is missing in the lineage. There are three roles, as in the paper (section 3.2): a *writer* works
on texts, a *viewer* looks at images, a *judge* decides. One teacher may have all three roles.

A prompt is one Markdown file per task, in ``mis_lib/construct/prompts``. People can copy and edit them
(``--set prompts=FOLDER``); a folder needs only the files that differ. A file has two parts, ``# System`` and
``# User``. ``$name`` is a fact about the record, ``$input`` is the record as JSON; the form of the answer is appended.
The hash of a file is in the lineage of every record, so an edited file makes its stage run again.
"""

import importlib.resources
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from string import Template
from typing import Any, NamedTuple, TypeVar, cast

from mis_lib.clients.protocol import (
    AnswerForm,
    CannotAnswer,
    ChatAsk,
    ChatModel,
    Cost,
    ImageAsk,
    ImageMaker,
    digest,
    digest_bytes,
)
from mis_lib.construct.labels import draw_lot
from mis_lib.construct.stages.inputs import ReviewDecision
from mis_lib.construct.stages.records import Draft, Rejected, Seed, Step
from mis_lib.errors import DataError, SettingsError
from mis_lib.files import write_atomic

A = TypeVar("A", bound=AnswerForm)


class TeacherRole(StrEnum):
    """What a teacher is needed for."""

    WRITER = "writer"
    VIEWER = "viewer"
    JUDGE = "judge"


ROLES: Mapping[str, TeacherRole] = {
    "extract": TeacherRole.WRITER,
    "rewrite": TeacherRole.WRITER,
    "detox": TeacherRole.WRITER,
    "critique": TeacherRole.VIEWER,
    "judge": TeacherRole.JUDGE,
    "danger_text": TeacherRole.JUDGE,
    "danger_images": TeacherRole.JUDGE,
    "label": TeacherRole.VIEWER,
    "relabel": TeacherRole.VIEWER,
    "twin": TeacherRole.VIEWER,
    "twin_check": TeacherRole.JUDGE,
}
FACTS: Mapping[str, tuple[str, ...]] = {
    "extract": ("seed", "category", "sub_category", "count", "taxonomy", "vocabulary"),
    "rewrite": ("category", "objects", "risk", "request"),
    "detox": ("category", "objects", "risk", "question"),
    "critique": ("category", "objects", "risk", "question", "prompts"),
    "judge": ("category", "sub_category", "objects", "risk", "question"),
    "danger_text": ("question",),
    "danger_images": ("objects", "risk"),
    "label": ("category", "objects", "risk", "question"),
    "relabel": ("category", "images", "objects", "question"),
    "twin": ("category", "objects", "risk", "question", "may_swap", "vocabulary"),
    "twin_check": ("question", "objects", "answer", "harmful_objects", "harmful_question", "risk"),
}
"""The facts that each task gets about the record; also the names that its prompt may use."""
BUILT_IN = Path(str(importlib.resources.files("mis_lib.construct"))) / "prompts"
NOT_IN_INPUT = ("taxonomy", "vocabulary")  # long and the same for every record: in $input they would only cost tokens
VARIED = 0.7  # temperature where variety is wanted; decisions are greedy
TEMPERATURES = {"extract": VARIED, "twin": VARIED}
_PARTS = re.compile(r"\A\s*# System\s*\n(?P<system>.*?)^# User\s*\n(?P<user>.*)\Z", re.DOTALL | re.MULTILINE)


class Prompt(NamedTuple):
    """One task's prompt and the digest of its file."""

    task: str
    system: Template
    user: Template
    digest: str

    def render(self, facts: Mapping[str, Any]) -> tuple[str, str]:
        """System and user text with the facts filled in."""
        shown = {name: _shown(value) for name, value in facts.items()}
        record = {name: value for name, value in facts.items() if name not in NOT_IN_INPUT}
        values = {**shown, "input": f"```json\n{_json(record, indent=1)}\n```"}
        return self.system.substitute(values).strip(), self.user.substitute(values).strip()


def read_prompts(folder: Path | None = None) -> dict[str, Prompt]:
    """All prompts by task: those of ``folder``, the built-in ones for the rest.

    Raises:
        SettingsError: a file lacks a part, uses a name that its task does not have, or belongs to no task.
    """
    if folder is not None:
        _check_names(folder)
    return {task: _read(task, _file(task, folder)) for task in FACTS}


@dataclass(frozen=True)
class Context:
    """What all stages of one run share.

    ``folder`` is the data set's; ``seeds_folder`` that of the seed file, to which pictures of seeds are relative.
    """

    teachers: Mapping[TeacherRole, ChatModel]
    maker: ImageMaker
    prompts: Mapping[str, Prompt]
    folder: Path
    seed: int = 0
    per_seed: int = 2
    max_tokens: int = 1024
    seeds_folder: Path | None = None
    decisions: Mapping[str, ReviewDecision] = field(default_factory=dict)
    review_required: bool = False

    def teacher_of(self, task: str, record: Seed | Draft) -> ChatModel:
        """The teacher for a task; a seed that is a picture goes to the viewer."""
        is_picture = isinstance(record, Seed) and record.image is not None
        return self.teachers[TeacherRole.VIEWER if is_picture else ROLES[task]]

    def read(self, path: str) -> bytes:
        """An image of the data set.

        Raises:
            DataError: it has been removed.
        """
        try:
            return (self.folder / path).read_bytes()
        except OSError as error:
            raise DataError(
                f"{self.folder / path}: expected the image that an earlier stage has made ({error.strerror}); put it "
                "back, or remove the file of that stage under stages/ to have it made again"
            ) from error

    def picture_seed(self, item: str) -> int:
        """The seed for the pictures of one item, from its name and the run's seed."""
        return draw_lot(f"{self.seed}|{item}", 2**31)


class Bench:
    """One record in one stage."""

    def __init__(self, context: Context, stage: str, record: Seed | Draft) -> None:
        self.context, self._stage, self._record = context, stage, record
        self.steps: list[Step] = []

    async def ask(self, task: str, form: type[A], facts: Mapping[str, Any], images: Sequence[bytes] = ()) -> A:
        """Ask the teacher of a task.

        Raises:
            Rejected: it refuses or never answers in the form asked for.
            Unavailable: it does not answer this time.
        """
        prompt, teacher = self.context.prompts[task], self.context.teacher_of(task, self._record)
        system, user = prompt.render(facts)
        asked = ChatAsk(
            task=task, system=system, user=user, form=form, facts=facts, images=tuple(images),
            temperature=TEMPERATURES.get(task, 0.0), seed=self.context.seed, max_tokens=self.context.max_tokens,
        )  # fmt: skip
        try:
            reply = await teacher.ask(asked)
        except CannotAnswer as error:
            self._note(task, teacher.name, prompt.digest, self.context.seed, asked.digest, "", error.cost)
            raise Rejected(error.code, error.reason) from error
        output = digest(reply.answer.model_dump(mode="json"))
        self._note(task, teacher.name, prompt.digest, self.context.seed, asked.digest, output, reply.cost)
        return cast(A, reply.answer)

    async def picture(self, prompt: str, seed: int) -> bytes:
        """Have one picture made; raises what ``ask`` raises."""
        maker, asked = self.context.maker, digest([prompt, seed])
        try:
            reply = await maker.make(ImageAsk(prompt, seed))
        except CannotAnswer as error:
            self._note("draw", maker.name, digest(prompt), seed, asked, "", error.cost)
            raise Rejected(error.code, error.reason) from error
        self._note("draw", maker.name, digest(prompt), seed, asked, digest_bytes(reply.content), reply.cost)
        return reply.content

    def decide(self, task: str, by: str, decision: Any) -> None:
        """Note a decision that no teacher was asked for: a rule's or a person's."""
        self._note(task, by, "", self.context.seed, "", digest(decision), Cost())

    def read(self, path: str) -> bytes:
        """An image of the data set; raises what ``Context.read`` raises."""
        return self.context.read(path)

    def write(self, path: str, content: bytes) -> None:
        """Write an image into the data set, all or nothing.

        The record that names it is written afterwards, so a kill leaves no gap.
        """
        write_atomic(self.context.folder / path, content, sync=False)

    def _note(self, task: str, teacher: str, prompt: str, seed: int, asked: str, output: str, cost: Cost) -> None:
        step = Step(
            stage=self._stage, task=task, teacher=teacher, prompt=prompt, seed=seed, input=asked, output=output,
            prompt_tokens=cost.prompt_tokens, completion_tokens=cost.completion_tokens,
        )  # fmt: skip
        self.steps.append(step)


def facts_of(draft: Draft, task: str, **more: Any) -> dict[str, Any]:
    """The facts that a task gets about a draft, by name, in the order of ``FACTS``."""
    known = {**draft.model_dump(mode="json"), **more}
    return {name: known[name] for name in FACTS[task]}


def _file(task: str, folder: Path | None) -> Path:
    built_in = BUILT_IN / f"{task}.md"
    edited = folder / f"{task}.md" if folder else built_in
    return edited if edited.is_file() else built_in


def _read(task: str, path: Path) -> Prompt:
    text = path.read_text(encoding="utf-8")
    parts = _PARTS.match(text)
    if parts is None:
        raise SettingsError(f"{path}: expected the two headings '# System' and '# User', each alone on a line")
    system, user = Template(parts["system"]), Template(parts["user"])
    known = {*FACTS[task], "input"}
    for template in (system, user):
        if not template.is_valid():
            raise SettingsError(f"{path}: a '$' is not followed by a name; write '$$' for the sign itself")
        unknown = sorted(set(template.get_identifiers()) - known)
        if unknown:
            raise SettingsError(
                f"{path}: unknown ${unknown[0]}; this prompt may use {', '.join(f'${name}' for name in sorted(known))}"
            )
    return Prompt(task, system, user, digest(text))


def _check_names(folder: Path) -> None:
    found = sorted(path.stem for path in folder.glob("*.md"))
    unknown = [name for name in found if name not in FACTS]
    if unknown or not found:
        raise SettingsError(
            f"{folder}: expected prompt files among {', '.join(f'{task}.md' for task in FACTS)}, found "
            f"{', '.join(f'{name}.md' for name in unknown) or 'none'}"
        )


def _shown(value: Any) -> str:
    if value is None:
        return "(not given)"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return value if isinstance(value, str) else _json(value)


def _json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)
