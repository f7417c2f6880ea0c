"""Commands as manifests and READMEs write them, parsed by the program that they call."""

import re
import shlex
from pathlib import Path
from typing import Any

import typer
from ray.scripts.scripts import cli as ray_cli

from pipelines.cli import app


def check_phonolake(words: list[str]) -> None:
    """Parse what follows `phonolake` or `python -m pipelines`; an error where it is no command of ours."""
    _check(typer.main.get_command(app), words)


def check_ray(words: list[str]) -> None:
    """Parse what follows `ray`."""
    _check(ray_cli, words)


def _check(command: Any, words: list[str]) -> None:
    """Parse words without carrying anything out; typer has a click of its own, which shares no class with click's."""
    context = command.context_class(command)
    while hasattr(command, "resolve_command"):
        name, command, words = command.resolve_command(context, words)
        context = command.context_class(command, info_name=name, parent=context)
    command.make_context(context.info_name, list(words), parent=context.parent)


def check_line(line: str) -> bool:
    """Parse a shell line if it calls one of the two, with what follows `--` too; whether it did."""
    words = [word for word in shlex.split(line, comments=True) if not re.fullmatch(r"[A-Z_]+=\S*", word)]
    for start, check in ((["phonolake"], check_phonolake), (["python", "-m", "pipelines"], check_phonolake)):
        if words[: len(start)] == start:
            check(words[len(start) :])
            return True
    if words[:1] != ["ray"]:
        return False
    check_ray(words[1:])
    if "--" in words:
        check_line(shlex.join(words[words.index("--") + 1 :]))
    return True


def lines_of(file: Path) -> list[str]:
    """The lines of a text, those that end with a backslash joined, comment signs gone."""
    text = re.sub(r"\\\n\s*#?", " ", file.read_text())
    return [line.strip().lstrip("#").strip() for line in text.splitlines()]
