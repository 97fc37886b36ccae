"""The pages of the documentation site that follow from the code; mkdocs calls this file (``hooks`` in mkdocs.yml).

    mkdocs serve               # the site at http://127.0.0.1:8000, made anew as files change
    mkdocs build --strict      # into site/; a link, an anchor or a path that is not there ends it with status 1

Three kinds of pages are made: one of each notebook, without running it; the commands with their options; the settings
with their defaults. The other pages are files in ``docs``. Links from them into the repository become links to the
page of a notebook, or the path as text, since the site holds no code.
"""

import argparse
import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pydantic import BaseModel
from pydantic.fields import FieldInfo

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # mkdocs runs this file as a hook, without the folder of the checkout
    sys.path.insert(0, str(ROOT))

log = logging.getLogger("mkdocs.plugins.site_pages")
NOTEBOOKS = sorted(ROOT.glob("notebooks/[0-9][0-9]_*.ipynb"))
LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]*)\]\((?P<href>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)")
BLOCK = re.compile(r"\s*(?:[-*] |\d+\. |\|)")  # begins a list or a table
RUN_IT = """
!!! note "This page shows the notebook without its outputs"
    Open it with `jupyter lab notebooks/`. Executed pages of all notebooks: `mis notebooks --execute --out pages`.
"""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the notebooks behind the first page of the tutorials."""
    tutorials = next(part["Tutorials"] for part in config.nav or [] if "Tutorials" in part)
    tutorials += [f"tutorials/{path.stem}.md" for path in NOTEBOOKS]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made of notebooks, commands and settings."""
    pages = {f"tutorials/{path.stem}.md": notebook_page(path) for path in NOTEBOOKS}
    pages |= {"reference/commands.md": commands_page(), "reference/settings.md": settings_page()}
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Resolve links into the repository, and set lists and tables apart as Python-Markdown wants them."""
    own = page.file.abs_src_path
    return spaced(linked(markdown, Path(own), page.file.src_uri) if own else markdown)


def notebook_page(path: Path) -> str:
    """A notebook as Markdown: its texts, and its code in fences."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    parts = [_cell(cell["cell_type"], "".join(cell["source"])) for cell in cells]
    parts.insert(1, RUN_IT)
    return linked("\n\n".join(filter(None, parts)) + "\n", path, f"tutorials/{path.stem}.md")


def linked(markdown: str, source: Path, uri: str) -> str:
    """The text of a file with its links into the repository resolved for the page ``uri``; code is left alone."""
    parts = re.split(r"(```.*?```)", markdown, flags=re.DOTALL)
    return "".join(
        part if place % 2 else LINK.sub(lambda found: _link(found, source, uri), part)
        for place, part in enumerate(parts)
    )


def _link(found: re.Match[str], source: Path, uri: str) -> str:
    href = found["href"]
    if re.match(r"[a-z]+:", href):
        return found[0]
    target = (source.parent / href).resolve()
    if target.is_relative_to(ROOT / "docs") or not target.is_relative_to(ROOT):
        return found[0]
    if not target.exists():
        log.warning("%s links to %s, which is not there", source.relative_to(ROOT), href)
    if target.suffix == ".ipynb":
        here = os.path.relpath(f"tutorials/{target.stem}.md", Path(uri).parent)
        return f"[{found['text']}]({here}{found['anchor'] or ''})"
    name, text = target.relative_to(ROOT).as_posix(), found["text"]
    return text if text.strip("`") in (name, target.name) else f"{text} (`{name}`)"


def spaced(markdown: str) -> str:
    """Markdown with an empty line before each list and table, which GitHub does not ask for."""
    lines: list[str] = []
    code = False
    for line in markdown.splitlines():
        before = lines[-1] if lines else ""
        if (
            not code
            and BLOCK.match(line)
            and before.strip()
            and not BLOCK.match(before)
            and not before.startswith((" ", "#"))
        ):
            lines.append("")
        code ^= line.lstrip().startswith("```")
        lines.append(line)
    return "\n".join(lines) + "\n"


def commands_page() -> str:
    """Every command of ``mis`` with its options."""
    import typer

    from mis_lib.cli.main import app

    program: Any = typer.main.get_command(app)
    parts = [
        "# Commands",
        "Long options have underscores; an option that takes several values takes them after one flag. "
        "The exit status is 0 when all is done, 1 when items failed or a check found a fault, "
        "and 2 for invalid arguments or files. "
        "`mis --traceback COMMAND` shows where in the code an error arose.",
    ]
    for name, command in program.commands.items():
        parts += list(_commands(f"mis {name}", command, 2))
    return "\n\n".join(parts) + "\n"


def settings_page() -> str:
    """The settings of every configuration file, group by group, as their classes declare them."""
    from tools.settings_shown import GROUPS

    parts = [
        "# Settings",
        "These keys are for `--config FILE` and `--set KEY=VALUE`; dots reach into groups (`lora.rank=8`). "
        "`mis train --config FILE --show` prints every resolved value.",
    ]
    for title, about, kind, parent in GROUPS:
        shared = set(parent.model_fields) if parent else set()
        fields = {name: field for name, field in kind.model_fields.items() if _is_own(name, field, shared, parent)}
        parts += [f"## {title}", about, _table(("setting", "type", "default", "what it does"), _settings(fields))]
    return "\n\n".join(parts) + "\n"


def _cell(kind: str, source: str) -> str:
    if not source.strip():
        return ""
    return source if kind == "markdown" else f"```python\n{source}\n```"


def _commands(name: str, command: Any, level: int) -> Iterator[str]:
    """A command and those below it, each with its help and a table of its options."""
    yield f"{'#' * level} {name}"
    yield _plain(command.help)
    if name == "mis app":
        yield _table(("option", "default", "what it does"), _arguments())
    rows = [_option(option) for option in command.params if option.name != "help"]
    if rows and name != "mis app":
        yield _table(("option", "values", "what it does"), rows)
    for inner, one in getattr(command, "commands", {}).items():
        yield from _commands(f"{name} {inner}", one, level + 1)


def _option(option: Any) -> tuple[str, str, str]:
    name = (
        f"`{option.name.upper()}`"
        if option.param_type_name == "argument"
        else ", ".join(f"`{one}`" for one in option.opts)
    )
    about, default = _plain(getattr(option, "help", "")), getattr(option.default, "value", option.default)
    if option.required:
        about += " (required)"
    elif isinstance(default, str | int | float | Path) and default not in (False, "") and "default" not in about:
        about += f" (default: {default})"
    return name, _values(option), about


def _values(option: Any) -> str:
    """What an option takes; nothing for a switch."""
    annotation = getattr(getattr(option, "type_descriptor", None), "annotation", None)
    return "" if getattr(option, "is_flag", False) or annotation is None else type_text(annotation)


def _arguments() -> Iterator[tuple[str, str, str]]:
    """The options of ``python app.py``."""
    import app

    parser: argparse.ArgumentParser = app._parser()
    for action in parser._actions:
        if action.dest != "help":
            default = "" if action.default in (None, argparse.SUPPRESS) else f"`{action.default}`"
            yield ", ".join(f"`{flag}`" for flag in action.option_strings), default, _plain(action.help)


def _is_own(name: str, field: FieldInfo, shared: set[str], parent: Any) -> bool:
    return name not in shared or repr(field.default) != repr(parent.model_fields[name].default)


def _settings(fields: Mapping[str, FieldInfo]) -> Iterator[tuple[str, str, str, str]]:
    for name, field in fields.items():
        yield f"`{name}`", type_text(field.annotation), _default(field), _plain(field.description)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "none"
    if isinstance(value, BaseModel):
        return "see its table"
    plain = list(value) if isinstance(value, tuple | frozenset) else getattr(value, "value", value)
    text = str(plain) if isinstance(plain, str | Path) else json.dumps(plain, default=str)
    return f"`{text}`" if len(text) < 80 else "see its class"


def type_text(annotation: Any) -> str:
    """A type in words: ``list of text``, ``number or none``, the values of a choice."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_text(inner[0])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin in (Union, UnionType):
        return " or ".join(type_text(one) for one in inner if one is not NoneType)
    if origin in (tuple, list, frozenset):
        return f"list of {type_text(inner[0])}"
    if origin is not None:
        return f"names, each with {type_text(inner[-1])}" if len(inner) == 2 else "object"
    plain = {str: "text", int: "whole number", float: "number", bool: "true or false", Path: "path", NoneType: "none"}
    values = [f"`{one.value}`" for one in annotation] if hasattr(annotation, "__members__") else []
    return (
        plain.get(annotation)
        or ", ".join(values)
        or getattr(annotation, "__name__", "any").removesuffix("Settings").lower()
    )


def _plain(text: str | None) -> str:
    """Help as Markdown: one line a paragraph, no marks of the terminal."""
    without = re.sub(r"\[/?(?:bold|dim|cyan|green|red|yellow|i|b)\]", "", text or "").replace("\\[", "[")
    return "\n\n".join(" ".join(part.split()) for part in without.replace("<", "&lt;").split("\n\n"))


def _table(headings: tuple[str, ...], rows: Iterator[tuple[str, ...]] | list[tuple[str, str, str]]) -> str:
    from tools.documents import markdown

    return markdown(headings, list(rows)).rstrip()
