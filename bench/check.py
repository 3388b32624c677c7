"""Do all benches still run? Each script of this folder at its smallest size: `make bench-check`.

A script is a file here with a `main`: it is found, not listed. It must take `--smallest`, end without an error within
`LIMIT_S` seconds, and print figures. One that takes `--s3` is run with it, too. One that needs data which nobody can make
says so, and leaves with `NO_DATA`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
LIMIT_S = 400
"""Of one script on a machine that does other things as well; on a quiet one all of them together take less than half of it."""

NO_DATA = 77
AT_ONCE = 2
FIGURE = re.compile(r"\d+(?:[.,]\d+)*")
NO_FIGURE = re.compile(r"\b(nan|inf)\b", re.IGNORECASE)
END_LINES = 15
WANTED = "a bench takes --smallest, ends with 0 and prints figures; see the docstring of bench/check.py"


def scripts(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Every bench of a folder, with each of the options that it is to be run with."""
    for path in sorted(folder.glob("*.py")):
        text = path.read_text()
        if 'if __name__ == "__main__":' not in text or path.samefile(__file__):
            continue
        yield path, ["--smallest"]
        if '"--s3"' in text:
            yield path, ["--smallest", "--s3"]


def complaint(path: Path, options: list[str], limit_s: float = LIMIT_S) -> str | None:
    """Run a bench; what is wrong with it, or `None`."""
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, str(path), *options]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, env=environment, check=False)
    except subprocess.TimeoutExpired:
        return f"did not end within {limit_s:.0f} s; {WANTED}"
    if done.returncode == NO_DATA and done.stdout.strip():
        return None
    if done.returncode:
        end = "\n".join((done.stdout + done.stderr).splitlines()[-END_LINES:])
        return f"left with {done.returncode}; {WANTED}. The end of what it said:\n{end}"
    if not FIGURE.search(done.stdout):
        return f"printed no figure, but {done.stdout[-200:]!r}; {WANTED}"
    if found := NO_FIGURE.search(done.stdout):
        return f"printed {found[0]} where a figure should be:\n{done.stdout}"
    return None


def main() -> None:
    """Run all, and leave with 1 when one does not."""
    began = time.monotonic()

    def run(script: tuple[Path, list[str]]) -> bool:
        path, options = script
        name, started = " ".join([path.name, *options]), time.monotonic()
        found = complaint(path, options)
        print(f"{name}: {'runs' if found is None else found} ({time.monotonic() - started:.0f} s)", flush=True)
        return found is None

    found = list(scripts(FOLDER))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        good = list(pool.map(run, found))
    print(f"{sum(good)} of {len(good)} run, in {time.monotonic() - began:.0f} s")
    if not all(good):
        sys.exit(1)


if __name__ == "__main__":
    main()
