"""What is said to a model around a question, and which defence its answers go through.

A variant is a model, an adapter and a prompting. ``VARIANT+PROMPTS`` names it: ``mirage+safety_cot`` is ``mirage`` with
the texts of ``prompts/safety_cot.yaml``, and ``base+own`` is ``base`` with those that ``--prompts own=FILE`` names.
"""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from mis_lib.errors import SettingsError
from mis_lib.settings import Judged, Settings, read_settings_file

FILES = Path(__file__).with_name("prompts")
SHIPPED = tuple(sorted(file.stem for file in FILES.glob("*.yaml")))
"""Names of the prompts that come with the package."""
REFUSAL = "I'm sorry, but I can't help with that."


class Prompting(Settings):
    """Texts around a question, and a defence; with all defaults, the bare question."""

    template: str | None = None
    """Name of shipped prompts; values given with it replace theirs."""
    system: str = ""
    """System prompt; a row's own one follows it."""
    before: str = ""
    """Text before the question, on lines of its own."""
    after: str = ""
    """Text after the question, on lines of its own."""
    defence: Literal["ecso", "gate", "regenerate", "edit"] | None = None
    """ecso, gate (a guard before and behind the model), regenerate (a guard's reason goes back to the model), or edit
    (another variant rewrites the answer)."""
    guard: Judged | None = None
    """gate, regenerate: who rules, as for mis judge; it does not know whether an item is harmful."""
    gates: tuple[Literal["front", "back"], ...] = Field(default=("front", "back"), min_length=1)
    """gate: front (the question is judged) and back (the answer is)."""
    rounds: int = Field(default=3, ge=1, le=20)
    """regenerate: further answers that are asked for at most."""
    editor: str | None = None
    """edit: the variant that rewrites, such as an adapter that the mixture rewrite trained."""
    editor_sees: bool = True
    """edit: whether the editor is shown the images; false is a control of what it decides by."""
    refusal: str = Field(default=REFUSAL, min_length=1)
    """What is answered in place of what a guard calls unsafe."""

    @model_validator(mode="before")
    @classmethod
    def _read(cls, given: Any) -> Any:
        """A mapping, or the path of a YAML file of one; texts of a template are filled in."""
        values = read_settings_file(Path(given)) if isinstance(given, str | Path) else given
        if not isinstance(values, Mapping) or values.get("template") is None:
            return values
        name = values["template"]
        if name not in SHIPPED:
            raise ValueError(f"template: unknown {name!r}; known: {', '.join(SHIPPED)}")
        return {**read_settings_file(FILES / f"{name}.yaml"), **values}

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        guarded = self.defence in ("gate", "regenerate")
        if guarded and self.guard is None:
            raise ValueError(f"defence: {self.defence} needs a guard, as guard: guard=URL#MODEL")
        if (self.defence == "edit") != (self.editor is not None):
            raise ValueError(f"editor: expected defence: edit and a variant, found {self.defence} and {self.editor}")
        if self.guard is not None and not guarded:
            raise ValueError(f"guard: expected defence: gate or regenerate with it, found {self.defence}")
        return self

    @model_serializer(mode="wrap")
    def _only_what_differs(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values = dump(self)
        return {
            name: value
            for name, value in values.items()
            if getattr(self, name) != type(self).model_fields[name].default
        }

    def asked(self, question: str, system: str = "") -> tuple[str, str]:
        """Question and system prompt as the model reads them.

        Args:
            question: the row's.
            system: the row's own system prompt.
        """
        text = "\n".join(part for part in (self.before, question, self.after) if part)
        return text, "\n\n".join(part for part in (self.system, system) if part)


BARE = Prompting()


class Prompted(NamedTuple):
    """A variant: what answers, and how it is asked."""

    base: str
    """Name of the variant that answers: a checkpoint, adapter, edit or served model."""
    prompting: Prompting = BARE


def prompted(names: Iterable[str], known: Collection[str], own: Mapping[str, Prompting]) -> dict[str, Prompted]:
    """The variant of each name.

    Args:
        names: as ``base`` or ``base+safety_cot``.
        known: variants that are no others under prompts.
        own: prompts by name, in addition to the shipped ones.

    Raises:
        SettingsError: prompts have a shipped name, are unknown, or are asked for by no variant; or one is named twice.
    """
    if taken := sorted(set(own) & set(SHIPPED)):
        raise SettingsError(f"prompts: the name {taken[0]!r} is taken by shipped prompts; call them something else")
    found: dict[str, Prompted] = {}
    for name in names:
        base, plus, prompts = name.rpartition("+")
        if name in found:
            raise SettingsError(f"--variants: expected each once, found {name!r} twice")
        if name in known or not plus:
            found[name] = Prompted(name)
        elif prompts in own or prompts in SHIPPED:
            found[name] = Prompted(base, own[prompts] if prompts in own else Prompting(template=prompts))
        elif base in known:
            listed = ", ".join([*own, *SHIPPED])
            raise SettingsError(
                f"{name}: unknown prompts {prompts!r}; known: {listed}; --prompts {prompts}=FILE adds them"
            )
        else:
            found[name] = Prompted(name)
    used = {name.rpartition("+")[2] for name in found}
    if idle := [name for name in own if name not in used]:
        raise SettingsError(
            f"prompts: no variant is asked with {idle[0]!r}; name one, as in --variants {next(iter(known), 'base')} "
            f"{next(iter(known), 'base')}+{idle[0]}"
        )
    return found


def promptings(variants: Mapping[str, Prompted]) -> dict[str, Prompting]:
    """The prompting of each variant that has one."""
    return {name: one.prompting for name, one in variants.items() if one.prompting != BARE}
