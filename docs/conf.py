"""How Sphinx builds these pages: `make docs`, with every warning an error."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

project = "heimdall-featurestore"
version = release = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
extensions = ["myst_parser"]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3  # so that other pages can point at sections
html_theme = "furo"
html_title = "heimdall-featurestore"
html_show_sourcelink = False
html_show_copyright = False
nitpicky = True
