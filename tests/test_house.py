"""The rules of the house: imports run one way, and help is quick."""

from __future__ import annotations

import ast
import resource
import subprocess
import sys
from pathlib import Path

import click
import pytest

from cli import main

ROOT = Path(__file__).resolve().parents[1]
PURE = {
    "tensor/mel",
    "tensor/moments",
    "tensor/rejection",
    "tensor/spec",
    "build/plan",
    "build/quality",
    "store/manifest",
    "store/rows",
    "store/split",
    "source/snapshot",
    "delay/band",
    "delay/crosscorrelation",
    "delay/heard",
    "delay/pairs",
    "delay/segments",
    "place/density",
    "place/geodesic",
    "place/grid",
    "place/posterior",
    "look/audit/audit",
    "look/audit/equality",
    "look/audit/findings",
}
IO = {"boto3", "obstore", "psycopg", "zarr", "dask", "distributed", "os", "pathlib", "socket", "subprocess"}
FORBIDDEN = {
    "featurestore": {"torch", "lightning", "timm", "mlflow", "onnx", "trainer", "exporter", "cli"},
    "trainer": {"dask", "distributed", "psycopg", "exporter", "cli"},
    "exporter": {"dask", "distributed", "psycopg", "cli"},
}


def imports(path: Path) -> set[str]:
    """Names of packages that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_imports_run_one_way(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        assert not imports(path) & FORBIDDEN[package], path


def test_pure_modules_do_no_io() -> None:
    for name in PURE:
        assert not imports(ROOT / "featurestore" / f"{name}.py") & IO, name


def test_only_the_build_side_touches_the_catalog_and_dask() -> None:
    """What a trainer imports to open a set must not need PostgreSQL or a cluster."""
    code = "import sys, featurestore.store.feature_set; print({'psycopg', 'dask', 'distributed', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "set()"


def test_sql_is_written_in_one_place() -> None:
    users = {path.name for path in (ROOT / "featurestore").rglob("*.py") if "psycopg" in imports(path)}
    assert users == {"catalog.py", "postgres.py"}


def commands(group: click.Group = main, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = [path]
    for name, command in group.commands.items():
        found += commands(command, (*path, name)) if isinstance(command, click.Group) else [(*path, name)]
    return found


def cpu_seconds() -> float:
    """What children have used so far: unlike the clock, it does not depend on what else the machine does."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_help_is_quick_and_has_examples(command: tuple[str, ...]) -> None:
    code = "import sys, click.testing as t, cli; print(t.CliRunner().invoke(cli.main, sys.argv[1:]).output, *sys.modules)"
    before = cpu_seconds()
    done = subprocess.run(
        [sys.executable, "-c", code, *command, "--help"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert cpu_seconds() - before < 1
    assert done.stdout.startswith("Usage: ")
    assert not {"numpy", "dask", "zarr", "torch", "boto3"} & set(done.stdout.split())  # what would make it slow
    if command and command[-1] not in ("services", "features"):
        assert "Examples:" in done.stdout
