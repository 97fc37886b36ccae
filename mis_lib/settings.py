"""Settings: frozen, checked when they are made, and built the same way by command line, form and notebook.

A settings class refuses unknown keys and values out of range with ``SettingsError``, naming setting and value. The same
class is read from a YAML file with ``load_settings``; ``--set key=value`` pairs win over the file, dots reach into
groups:

    settings = load_settings(GenerationSettings, Path("run.yaml"), overrides=["max_new_tokens=64"])

A file that starts with ``base: OTHER.yaml`` holds only what differs from that file.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from mis_lib.errors import SettingsError, close_to


class Settings(BaseModel):
    """Base of all settings: immutable, no unknown keys, errors that name setting and value.

    A field's docstring is its description.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True)

    if not TYPE_CHECKING:  # keeps the fields as the constructor's signature for type checkers

        def __init__(self, **values: Any) -> None:
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise SettingsError(_explain(type(self), error)) from error


S = TypeVar("S", bound=Settings)
Quantization = Literal["nf4", "int8"]
"""How bitsandbytes stores the weights of linear layers: nf4 (4 bits, as QLoRA does) or int8."""
OWN_VARIABLES = frozenset(
    [
        "messages",
        "conversation",
        "tools",
        "documents",
        "chat_template",
        "add_generation_prompt",
        "continue_final_message",
        "tokenize",
        "return_dict",
        "return_tensors",
        "processor_kwargs",
    ]
)
"""Names of a chat template's variables, or of options beside them, that the program sets itself."""
BASE = "base"  # key of a settings file, of no settings class

Judged = Annotated[
    tuple[str, ...], BeforeValidator(lambda given: (given,) if isinstance(given, str) else given), Field(min_length=1)
]
"""Who rules: judges as ``mis judge --judges`` takes them, or one file of its settings; of several, the last."""
RULE = ("rule",)


IMAGE_PIXELS = 2048 * 28 * 28
"""Most pixels of an image that a server is sent: 2,048 patches of Qwen2-VL; OpenAI's models read 1,536 of 32 x 32."""
ImagePixels = Annotated[int, Field(ge=64 * 64)]


class GenerationSettings(Settings):
    """How an answer is generated; the defaults are the paper's greedy decoding."""

    max_new_tokens: int = Field(default=256, ge=1, le=32_768)
    """Longest answer, in tokens."""
    temperature: float = Field(default=0.0, ge=0.0, le=2.0, allow_inf_nan=False)
    """0 is greedy; above 0 tokens are drawn with ``seed``."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of the draws, for temperatures above 0."""
    chat_template_kwargs: dict[str, Any] | None = Field(default=None, exclude_if=lambda value: not value)
    """Variables for the model's chat template, as {"enable_thinking": false}; a part of answers' keys if given."""

    @field_validator("chat_template_kwargs", mode="before")
    @classmethod
    def _read_variables(cls, value: Any) -> Any:
        """JSON, as the app and ``mis compare`` are given it, or a mapping."""
        expected = 'expected a JSON object such as {"enable_thinking": false}'
        if isinstance(value, str):
            try:
                value = json.loads(value) if value.strip() else None
            except ValueError as error:
                raise ValueError(f"{expected}, found {value!r}") from error
        if not isinstance(value, Mapping | None):
            raise ValueError(f"{expected}, found {value!r}")
        if taken := sorted(OWN_VARIABLES & set(value or ())):
            raise ValueError(f"{taken[0]} is set by the program; leave it out")
        return value

    def seed_for(self, sample_id: str) -> int:
        """The seed of one sample's draws; it depends on nothing but the id, so the order of work changes no answer."""
        return int.from_bytes(hashlib.sha256(f"{self.seed} {sample_id}".encode()).digest()[:4], "big")


class TableFormat(StrEnum):
    """How a table of rates is written."""

    TEXT = "text"
    MARKDOWN = "markdown"
    CSV = "csv"
    LATEX = "latex"
    JSON = "json"


class ExportForm(StrEnum):
    """For which tool ``mis export`` writes: trainers, our own form, evaluators, and ``inspect`` for a run's answers."""

    LLAMAFACTORY = "llamafactory"
    SWIFT = "swift"
    TRL = "trl"
    JSONL = "jsonl"
    VLMEVALKIT = "vlmevalkit"
    LMMS_EVAL = "lmms_eval"
    INSPECT = "inspect"


class ExportedImages(StrEnum):
    """Whether ``mis export`` copies images or leaves them where they are."""

    COPY = "copy"
    KEEP = "keep"


class ImagesAs(StrEnum):
    """How images reach a server: inside the request, or as paths that server and client both see."""

    BASE64 = "base64"
    FILE = "file"


class AnalysisMethod(StrEnum):
    """What ``mis analyse`` looks at."""

    SEPARATION = "separation"
    SPECTRUM = "spectrum"
    FORMATS = "formats"
    SAFEGROUND = "safeground"


def load_settings(kind: type[S], path: Path | None = None, *, overrides: Iterable[str] = ()) -> S:
    """Build settings from an optional YAML file and ``key=value`` overrides, which win.

    Raises:
        SettingsError: the file is missing or no mapping, an override has no ``=``, a key is unknown, a value out of
            range.
    """
    values = {} if path is None else read_settings_file(path)
    for override in overrides:
        values = _override(values, override)
    return kind(**values)


def read_settings_file(path: Path) -> dict[str, Any]:
    """The values of a settings file; ``base: OTHER.yaml`` in it names a file whose values it adds to or replaces.

    The path of the base is relative to the file. Groups are merged key by key. A base has no base: a value is in one
    of two files.

    Raises:
        SettingsError: a file is missing or no mapping, or the base has a base.
    """
    values = _read_mapping(path)
    if BASE not in values:
        return values
    named = values.pop(BASE)
    if not isinstance(named, str):
        raise SettingsError(f"{path}: {BASE}: expected the path of a settings file, found {named!r}")
    under = path.parent / named
    shared = _read_mapping(under)
    if BASE in shared:
        raise SettingsError(
            f"{under}: {BASE}: expected none, since it is the base of {path}, found {shared[BASE]!r}; copy its values"
        )
    return _merged(shared, values)


def all_known(flag: str, values: Sequence[str], known: Mapping[str, Any] | Sequence[str]) -> None:
    """Refuse values that are unknown, repeated, or none at all.

    Raises:
        SettingsError: names the flag and what is known.
    """
    listed = list(known)
    for value in values:
        if value not in listed:
            raise SettingsError(f"{flag}: unknown {value!r}; known here: {', '.join(listed)}")
    if not values or len(set(values)) != len(values):
        raise SettingsError(
            f"{flag}: expected each of {', '.join(listed)} at most once and at least one, found {values}"
        )


def dump_settings(settings: Settings) -> str:
    """The resolved settings as YAML, in the order of the fields; ``load_settings`` reads it back."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``over`` wins; groups that both have are merged."""
    return {**under} | {
        key: _merged(under[key], value) if isinstance(value, Mapping) and isinstance(under.get(key), Mapping) else value
        for key, value in over.items()
    }


class _EachOnce(yaml.SafeLoader):
    """YAML in which a key occurs once: of two, PyYAML would take the last and say nothing."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key.value!r} stands twice; keep one", key.start_mark
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _EachOnce)
    except FileNotFoundError as error:
        raise SettingsError(f"settings file {path} does not exist") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"{path}: expected YAML with one 'key: value' a line; {error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise SettingsError(f"{path}: expected YAML with one 'key: value' a line, found {type(values).__name__}")
    return values


def _override(values: Mapping[str, Any], override: str) -> dict[str, Any]:
    """A copy of ``values`` with one ``a.b=value`` put in.

    The value is read as YAML, so that 3, 0.5, true and [1, 2] work.
    """
    path, separator, text = override.partition("=")
    if not separator or not path.strip():
        raise SettingsError(
            f"--set {override!r}: expected key=value, for example --set seed=1, or GROUP.KEY=VALUE for a value in "
            "a group"
        )
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SettingsError(f"--set {override!r}: the value cannot be read as YAML; quote it") from error
    return _put(values, path.strip().split("."), value)


def _put(values: Mapping[str, Any], keys: list[str], value: Any) -> dict[str, Any]:
    key, *rest = keys
    if not rest:
        return {**values, key: value}
    inner = values.get(key, {})
    if not isinstance(inner, Mapping):
        raise SettingsError(f"--set {'.'.join(keys)}: {key!r} is a single value ({inner!r}), not a group of settings")
    return {**values, key: _put(inner, rest, value)}


def _explain(kind: type[Settings], error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            lines.append(f"unknown setting {name!r}{_in_a_group(kind, name) or close_to(name, kind.model_fields)}")
        elif problem["type"] == "missing":
            lines.append(f"setting {name!r} is missing")
        elif problem["type"] == "value_error":  # a group of settings inside, which has explained itself, or a validator
            place = f"in {name!r}: " if name else ""
            lines.append(place + problem["msg"].removeprefix("Value error, "))
        else:
            lines.append(f"setting {name!r}: {problem['msg']}, found {problem['input']!r}")
    if any(problem["type"] == "extra_forbidden" for problem in error.errors()):
        lines.append(f"known: {', '.join(kind.model_fields)}")
    return "; ".join(lines)


def _in_a_group(kind: type[Settings], name: str) -> str:
    """Where a group of these settings has one of that name: people leave the group out."""
    groups = {group: field.annotation for group, field in kind.model_fields.items()}
    found = [
        f"{group}.{name}"
        for group, inner in groups.items()
        if isinstance(inner, type) and issubclass(inner, Settings) and name in inner.model_fields
    ]
    return f" (did you mean {' or '.join(map(repr, found))}?)" if found else ""
