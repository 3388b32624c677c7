"""Benches: the check that they run, and the sets that they measure on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from check import FOLDER, complaint, scripts
from corpus_for_tests import SMALL
from noise_set import chunk_keys, noise, row_numbers, write_set

from featurestore.care.verify.verify import verify
from featurestore.objects.objects import open_objects
from featurestore.tensor.spec import SplitSpec


def script(directory: Path, body: str) -> Path:
    path = directory / "bench.py"
    path.write_text(f'import sys\nif __name__ == "__main__":\n    {body}\n')
    return path


def test_every_bench_of_the_folder_is_found() -> None:
    """Those that other files only import are none; those that know S3 are run with it as well."""
    found = [(path.name, "--s3" in options) for path, options in scripts(FOLDER)]
    assert {name for name, _ in found} == {
        path.name for path in FOLDER.glob("*.py") if "def main() -> None:" in path.read_text() and path.name != "check.py"
    }
    assert ("loaders.py", True) in found
    assert all("--smallest" in options for _, options in scripts(FOLDER))


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ("print('build: 1,234 captures/s' if sys.argv[1:] == ['--smallest'] else 'none')", None),
        ("sys.exit('it stopped')", "it stopped"),
        ("print('all is well')", "printed no figure"),
        ("print('2 turns, ratio nan')", "printed nan"),
        ("import time; time.sleep(60)", "did not end"),
    ],
)
def test_a_bench_that_fails_or_prints_no_figure_is_told(tmp_path: Path, body: str, wanted: str | None) -> None:
    found = complaint(script(tmp_path, body), ["--smallest"], limit_s=1.5 if "sleep" in body else 60)
    assert found is None if wanted is None else wanted in str(found)


def test_a_made_set_is_like_any_other(tmp_path: Path) -> None:
    """It is whole to `features verify`, holds the given tensors in their order, and keeps its sessions together."""
    tensors = noise(1100, SMALL)
    opened = write_set(open_objects(tmp_path.as_uri()), tensors, SMALL, SplitSpec(), receivers=5)
    assert not verify(tmp_path.as_uri(), opened.version).problems
    segment = opened.segments[0]
    found = np.concatenate([opened.read_features(segment, chunk) for chunk in range(segment.n_chunks)])
    np.testing.assert_array_equal(found, tensors)
    np.testing.assert_array_equal(row_numbers(found), np.arange(1100))
    assert len(chunk_keys(opened)) == segment.n_chunks == 3
    session = opened.fact("session_id").view("V16")[:, 0]
    assert np.count_nonzero(session[1:] != session[:-1]) == 1100 // 5 - 1
    assert opened.manifest.counts["val"] > 0
