"""What the pages say exists: links resolve, commands and options are real, the compose file holds what the README says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from cli import main
from featurestore.store.rows import CHUNK_ROWS
from featurestore.tensor.spec import FeatureSpec

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


def test_pages_made_from_commands_and_records_are_what_these_say() -> None:
    code = "import json, cli_page; print(json.dumps({path.name: text for path, text in cli_page.pages()}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT / "docs")
    for name, made in json.loads(done.stdout).items():
        assert (ROOT / "docs" / name).read_text() == made, f"run 'make docs', and commit docs/{name}"


def test_files_that_the_architecture_page_names_exist() -> None:
    """So that a newcomer's questions end at a file; and every folder of the product is in the picture of the house."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    named = re.findall(r"`((?:featurestore|trainer|exporter|tests)/[\w/]+\.py)`", text)
    assert len(named) > 10
    assert not [name for name in named if not (ROOT / name).is_file()]
    package, shown = "", set()
    for line in re.findall(r"```text\n(.*?)```", text, re.DOTALL)[0].splitlines():
        name = line.split()[0].rstrip("/")
        package = package if line.startswith(" ") else name
        shown |= {f"{package}/{name}"} if line.startswith(" ") else set()
    folders = {
        str(path.parent.relative_to(ROOT))
        for package in ("featurestore", "trainer", "exporter")
        for path in (ROOT / package).glob("*/__init__.py")
    }
    assert shown == folders


def test_every_page_is_in_the_index() -> None:
    listed = set(re.findall(r"^(\w+)$", (ROOT / "docs" / "index.md").read_text(), re.MULTILINE))
    assert listed == {page.stem for page in (ROOT / "docs").glob("*.md")} - {"index"}


def test_the_arithmetic_of_the_physics_page_gives_what_it_says() -> None:
    text = (ROOT / "docs" / "physics.md").read_text()
    ((code, output),) = re.findall(r"```python\n(.*?)```\n+```text\n(.*?)```", text, re.DOTALL)
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown == output
    prose = text.partition(output)[2]
    for number in ("a factor of 1.64", "factor of 2.05", "0.042 dB", "91 ns", "27 m of path", "2.67 ms", "799 km", "1.56 km"):
        assert number in prose, number
        assert number.split()[0 if number[0].isdigit() else -1] in output, number


def test_the_arithmetic_of_the_time_page_gives_what_it_says() -> None:
    ((code, output),) = re.findall(
        r"```python\n(.*?)```\n+```text\n(.*?)```", (ROOT / "docs" / "time.md").read_text(), re.DOTALL
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == output


def test_the_sizes_on_the_operations_page_follow_from_the_defaults() -> None:
    text, spec, rows = (ROOT / "docs" / "operations.md").read_text(), FeatureSpec(), 10_000_000
    values = 3 * spec.n_mels * spec.n_frames
    for name, per_row, total in (
        ("`logmel` (float32)", values * 4, f"{values * 4 * rows / 1e9:.0f} GB"),
        ("`features` (float16), per basis", values * 2, f"{values * 2 * rows / 1e9:.0f} GB"),
    ):
        assert f"| {name} | {per_row / 1e3:.1f} kB | {total} |" in text
    assert f"| read of it by a build | {16 * spec.span / 1e3:.0f} kB | {16 * spec.span * rows / 1e12:.2f} TB |" in text
    assert f"three arrays | | {-(-rows // CHUNK_ROWS) * 3:,} |" in text


def test_make_targets_that_are_named_exist() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        assert set(re.findall(r"(?:^|`)make ([a-z0-9-]+)", page.read_text(), re.MULTILINE)) <= targets, page
