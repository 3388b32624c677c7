"""What the pages say exists: links resolve, commands and options are real, the compose file holds what the README says."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from cli import main

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_resolve(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_their_options_exist(page: Path) -> None:
    text = page.read_text().replace("\\\n", " ")
    for words in re.findall(r"\bheimdall ([a-z][^`\n#|]*)", text):
        command: click.Command = main
        rest = words.split()
        while rest and isinstance(command, click.Group) and rest[0] in command.commands:
            command = command.commands[rest.pop(0)]
        assert command is not main, words
        options = {name for parameter in command.params for name in [*parameter.opts, *parameter.secondary_opts]} | {"--help"}
        used = {word.split("=")[0].rstrip(",.;:)'\"") for word in rest if word.startswith("--")}
        assert used <= options, (words, used - options)


def test_make_targets_that_are_named_exist() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        assert set(re.findall(r"(?:^|`)make ([a-z0-9-]+)", page.read_text(), re.MULTILINE)) <= targets, page
