"""The rules of the house: imports run one way, and help is quick."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

from cli import main

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("featurestore", "trainer", "exporter")

SMALL = {"errors", "option", "progress", "redaction", "software", "text_table", "whole_file"}
"""Single files of `featurestore/` that every wing of it may use."""

WINGS: dict[str, set[str]] = {
    "featurestore.tensor": set(),
    "featurestore.objects": set(),
    "featurestore.page": set(),
    "featurestore.place": set(),
    "featurestore.delay": set(),
    "featurestore.source": {"featurestore.tensor", "featurestore.objects"},
    "featurestore.store": {"featurestore.tensor", "featurestore.objects", "featurestore.source"},
    "featurestore.cluster": set(),
    "featurestore.build": {
        "featurestore.tensor",
        "featurestore.objects",
        "featurestore.source",
        "featurestore.store",
        "featurestore.cluster",
    },
    "featurestore.care": {
        "featurestore.tensor",
        "featurestore.objects",
        "featurestore.source",
        "featurestore.store",
        "featurestore.cluster",
        "featurestore.build",
    },
    "featurestore.look": {
        "featurestore.tensor",
        "featurestore.objects",
        "featurestore.source",
        "featurestore.store",
        "featurestore.page",
    },
    "featurestore.pairs": {
        "featurestore.tensor",
        "featurestore.objects",
        "featurestore.source",
        "featurestore.store",
        "featurestore.cluster",
        "featurestore.build",
        "featurestore.care",
        "featurestore.delay",
        "featurestore.place",
        "featurestore.look",
        "featurestore.page",
    },
    "featurestore.locate": {
        "featurestore.corpus",
        "featurestore.delay",
        "featurestore.page",
        "featurestore.place",
        "featurestore.source",
        "featurestore.objects",
    },
    "featurestore.corpus": {
        "featurestore.tensor",
        "featurestore.objects",
        "featurestore.source",
        "featurestore.cluster",
        "featurestore.delay",
        "featurestore.place",
    },
    "featurestore.services": {"featurestore.source"},
    "featurestore.doctor": {"featurestore.tensor", "featurestore.objects", "featurestore.source", "featurestore.cluster"},
    "trainer.tracker_address": set(),
    "trainer.stream": set(),
    "trainer.network": {"trainer.stream"},
    "trainer.evaluate": {"trainer.stream", "trainer.network", "trainer.tracker_address"},
    "trainer.fitting": {"trainer.stream", "trainer.network", "trainer.evaluate", "trainer.tracker_address"},
    "trainer.sweep": {"trainer.stream", "trainer.network", "trainer.evaluate", "trainer.fitting", "trainer.tracker_address"},
    "trainer.doctor": {"trainer.tracker_address"},
    "exporter.graph": set(),
    "exporter.release": {"exporter.graph"},
    "exporter.predict": {"exporter.graph", "exporter.release"},
    "exporter.validate": {"exporter.graph", "exporter.release", "exporter.predict"},
}
"""Which wings of its own package a wing may import; a new arrow is a decision, and stands here."""

FACES = {
    "trainer": {
        "featurestore.pairs",
        "featurestore.place",
        "featurestore.tensor",
        "featurestore.objects",
        "featurestore.source",
        "featurestore.store",
        "featurestore.page",
        "featurestore.look",
        "featurestore.doctor",
    },
    "exporter": {
        "featurestore.place",
        "featurestore.tensor",
        "featurestore.objects",
        "featurestore.source",
        "featurestore.store",
        "featurestore.page",
        "featurestore.look",
        "trainer.network",
        "trainer.evaluate",
        "trainer.tracker_address",
    },
}
"""Which wings of the packages below it a package may import, beside the small files; `commands` may import all."""

FORBIDDEN = {
    "featurestore": {"torch", "lightning", "timm", "mlflow", "onnx", "trainer", "exporter", "cli"},
    "trainer": {"dask", "distributed", "psycopg", "exporter", "cli"},
    "exporter": {"dask", "distributed", "psycopg", "cli"},
}

PURE = (
    "featurestore.tensor.mel",
    "featurestore.tensor.moments",
    "featurestore.tensor.rejection",
    "featurestore.tensor.spec",
    "featurestore.build.plan",
    "featurestore.build.quality",
    "featurestore.store.manifest",
    "featurestore.store.rows",
    "featurestore.store.split",
    "featurestore.source.snapshot",
    "featurestore.delay.pairs",
    "featurestore.place.delays",
    "featurestore.place.posterior",
    "featurestore.place.search",
    "featurestore.look.audit.audit",
    "featurestore.look.audit.equality",
    "featurestore.look.audit.findings",
    "featurestore.delay.pairs",
    "featurestore.place.delays",
    "featurestore.place.posterior",
    "featurestore.place.search",
    "featurestore.pairs.spec",
    "featurestore.pairs.rows",
    "featurestore.pairs.plan",
)
IO = {"boto3", "obstore", "psycopg", "zarr", "dask", "distributed"}
"""What a pure module does not load, by itself or through others."""


LONG = 300
"""Lines of a file from which on it has to say why."""


def modules() -> dict[str, Path]:
    """Every module of the product, by its dotted name."""
    found = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            found[".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imported(path: Path) -> set[str]:
    """What a file imports when it runs, anywhere in it; names that only types need are left out."""
    tree = ast.parse(path.read_text())
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (names & MODULES.keys()) | ({node.module} if names - MODULES.keys() else set())
    return found


def packages(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imported(path)}


def wing(module: str) -> str:
    """`featurestore.care.gc.sweep` → `featurestore.care`."""
    return ".".join(module.split(".")[:2])


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_run_one_way(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        assert not packages(path) & FORBIDDEN[package], path


def test_wings_import_only_what_their_table_says() -> None:
    wrong = []
    for module, path in MODULES.items():
        own = wing(module)
        if own not in WINGS:  # commands, and single files above the wings
            continue
        package = own.partition(".")[0]
        may = WINGS[own] | FACES.get(package, set()) | {f"featurestore.{name}" for name in SMALL} | {own, package}
        wrong += [f"{module} -> {name}" for name in imported(path) & MODULES.keys() if wing(name) not in may]
    assert not wrong


def test_every_wing_is_in_the_table() -> None:
    folders = {wing(module) for module, path in MODULES.items() if path.name == "__init__.py" and "." in module}
    assert folders - {f"{package}.commands" for package in PACKAGES} <= WINGS.keys()


def test_imports_have_no_circles() -> None:
    """A module that imports another is never imported by it, on whatever way: Kahn's algorithm takes all away."""
    edges = {module: (imported(path) & MODULES.keys()) - {module} for module, path in MODULES.items()}
    while leaves := {module for module, others in edges.items() if not others}:
        edges = {module: others - leaves for module, others in edges.items() if module not in leaves}
    assert not edges


def test_pure_modules_load_nothing_that_does_io() -> None:
    code = "import sys, importlib\nfor name in sys.argv[1:]:\n    importlib.import_module(name)\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, *PURE], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not IO & set(done.stdout.split())


def test_every_wing_says_what_lives_in_it() -> None:
    for module, path in MODULES.items():
        if path.name == "__init__.py":
            assert len(ast.get_docstring(ast.parse(path.read_text())) or "") > 40, module


def test_long_files_say_why() -> None:
    """A page of code that a reader holds in mind; what is longer says at its head why it is not parted."""
    for path in MODULES.values():
        text = path.read_text()
        if len(text.splitlines()) > LONG:
            assert f"onger than {LONG} lines, because" in (ast.get_docstring(ast.parse(text)) or ""), path


def test_templates_and_styles_go_into_the_wheel() -> None:
    """What is no Python file is packaged only where `package-data` names it."""
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    for package in PACKAGES:
        packaged = {path for pattern in patterns[package] for path in (ROOT / package).glob(pattern)}
        data = {path for path in (ROOT / package).rglob("*.*") if path.suffix in (".html", ".css", ".sql", ".typed")}
        assert data <= packaged


def test_only_the_build_side_touches_the_catalog_and_dask() -> None:
    """What a trainer imports to open a set must not need PostgreSQL or a cluster."""
    code = "import sys, featurestore.store.feature_set; print({'psycopg', 'dask', 'distributed', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "set()"


def test_sql_is_written_in_one_place() -> None:
    users = {path.name for path in (ROOT / "featurestore").rglob("*.py") if "psycopg" in packages(path)}
    assert users == {"catalog.py", "catalog_connection.py", "catalog_writing.py", "receiver_table.py", "postgres.py"}


def commands(group: click.Group = main, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = [path]
    for name, command in group.commands.items():
        found += commands(command, (*path, name)) if isinstance(command, click.Group) else [(*path, name)]
    return found


LOADED_FOR_HELP = {"cli", "click", "featurestore", "trainer", "exporter"}
"""Whose modules a help text may need, beside Python's own: any other package would make it slow."""

HELP_MODULES = 200
"""That may be loaded for a help text, Python's own included, beyond those of its start; seconds would depend on the machine."""

SHOW_HELP = """
import sys
at_start = set(sys.modules)
import json, os, cli, click.testing
for line in sys.stdin:
    if os.fork() == 0:
        output = click.testing.CliRunner().invoke(cli.main, [*json.loads(line), "--help"]).output
        print(json.dumps([output, sorted(set(sys.modules) - at_start)]), flush=True)
        os._exit(0)
    os.wait()
"""
"""Each command in a process of its own, forked from one that has loaded what all of them load."""


@pytest.fixture(scope="module")
def helps() -> dict[tuple[str, ...], tuple[str, list[str]]]:
    """For each command: its help, and the modules that were loaded for it."""
    lines = "".join(json.dumps(command) + "\n" for command in commands())
    done = subprocess.run([sys.executable, "-c", SHOW_HELP], input=lines, capture_output=True, text=True, check=True, cwd=ROOT)
    return dict(zip(commands(), map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_help_is_quick_and_has_examples(helps: dict[tuple[str, ...], tuple[str, list[str]]], command: tuple[str, ...]) -> None:
    output, loaded = helps[command]
    packages = {name.partition(".")[0] for name in loaded}
    assert output.startswith("Usage: ")
    assert packages - sys.stdlib_module_names <= LOADED_FOR_HELP
    assert len(loaded) < HELP_MODULES
    if command and command[-1] not in ("services", "features"):
        assert "Examples:" in output
