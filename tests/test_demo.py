"""The demo runs to its end, and what it leaves can be opened and repeated."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("where", [["--features-only"], ["--s3"]], ids=["files", "s3"])
def test_the_demo(tmp_path: Path, where: list[str]) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "PG", "HEIMDALL_"))}
    arguments = [
        sys.executable,
        str(ROOT / "cli.py"),
        "demo",
        "--dir",
        str(tmp_path / "demo"),
        "--sessions",
        "12",
        "--epochs",
        "1",
        *where,
    ]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=290, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "84 computed" not in done.stdout.partition("another split")[2]
    assert "7 computed, 8" in done.stdout  # the added session, and nothing else
    for picture in ("tensors.png", "statistics.png"):
        assert (tmp_path / "demo" / "pictures" / picture).read_bytes().startswith(b"\x89PNG")
    assert "float16 ('row', 'channel', 'mel', 'frame')" in done.stdout
    assert not list(tmp_path.glob("*.npy"))
    if where == ["--features-only"]:
        return
    assert "predict the mean" in done.stdout
    for picture in ("map.png", "error_cdf.png", "calibration.png", "error_by_snr.png"):
        assert (tmp_path / "demo" / "evaluation" / picture).read_bytes().startswith(b"\x89PNG")
    assert "release 0.1.0" in done.stdout
    assert done.stdout.count("capture-") >= 3  # predicted from raw IQ
