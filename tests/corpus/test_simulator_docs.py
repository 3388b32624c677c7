"""docs/simulator.md states every parameter of the simulator, with the value that the code holds."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "simulator.md"
MODULES = ("airwave", "breakage", "clocks", "fading", "radiomap", "receiver", "render", "session", "sites", "waveform")
NOT_PARAMETERS = {"sites.EARTH_RADIUS_M", "waveform.CTCSS_TONES_HZ", "clocks.NS"}


def constants() -> dict[str, Any]:
    """Numbers, and tuples and dicts of numbers, that the modules define by name."""
    found = {}
    for name in MODULES:
        module = importlib.import_module(f"featurestore.corpus.simulate.{name}")
        tree = ast.parse(Path(module.__file__ or "").read_text())
        targets = [node.targets[0] for node in tree.body if isinstance(node, ast.Assign)]
        for target in targets:
            if isinstance(target, ast.Name) and isinstance(value := getattr(module, target.id), int | float | tuple | dict):
                found[f"{name}.{target.id}"] = value
    return {name: value for name, value in found.items() if "sites." not in name or "REGION" in name}


def test_the_table_of_parameters_is_complete_and_right() -> None:
    rows = re.findall(r"^\| `(\w+\.[A-Z_]+)` \| (.+?) \|", PAGE.read_text(), re.MULTILINE)
    stated = {name: ast.literal_eval(value) for name, value in rows}
    assert stated == {name: value for name, value in constants().items() if name not in NOT_PARAMETERS}
