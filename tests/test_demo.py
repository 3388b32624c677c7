"""The demo runs to its end, and what it leaves can be opened and repeated."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.timeout(2400)  # it is a minute on a quiet machine, and ten beside eight others
@pytest.mark.parametrize("where", [["--s3", "--features-only", "--sessions", "6"], ["--sessions", "12"]], ids=["s3", "files"])
def test_the_demo(tmp_path: Path, where: list[str]) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "PG", "HEIMDALL_"))}
    arguments = [
        sys.executable,
        str(ROOT / "cli.py"),
        "demo",
        "--dir",
        str(tmp_path / "demo"),
        "--epochs",
        "1",
        *where,
    ]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=2300, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    computed = [int(count) for count in re.findall(r"(\d+) computed, \d+ reused", done.stdout)]
    assert computed[1:] == [
        7 * (int(where[-1]) // 10 or 1),
        0,
    ]  # the added session and nothing else; then another split: nothing
    assert computed[0] > 7 * (int(where[-1]) - 1)  # but for a rejected capture or two
    assert len(list((tmp_path / "demo" / "pictures").glob("*.svg"))) > 6
    assert str(tmp_path / "demo" / "features.html") in done.stdout
    assert "of 7 receivers" in (tmp_path / "demo" / "features.html").read_text()
    assert "float16 ('row', 'channel', 'mel', 'frame')" in done.stdout
    assert not list(tmp_path.glob("*.npy"))
    if "--features-only" in where:
        return
    assert "predict the mean" in done.stdout
    assert "the bound, of who knows the radio map: mean" in done.stdout
    for picture in ("error_cdf.png", "by_receivers.png", "posteriors.png", "radio_map.png"):
        assert (tmp_path / "demo" / "evaluation" / picture).read_bytes().startswith(b"\x89PNG")
    assert str(tmp_path / "demo" / "evaluation.html") in done.stdout.partition("Reports, for a browser: ")[2]
    assert "Radio maps" in (tmp_path / "demo" / "evaluation.html").read_text()
    assert "locate.html" in done.stdout.partition("Reports, for a browser: ")[2]
    assert "release 0.1.0" in done.stdout
    assert done.stdout.count("websdr_") >= 3  # predicted from raw IQ
