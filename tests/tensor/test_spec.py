"""Specs: validation, canonical text and identity."""

from __future__ import annotations

import hashlib
import json
import subprocess
from dataclasses import asdict
from typing import Any

import pytest

from featurestore.errors import UsageError
from featurestore.tensor.spec import FeatureSpec, SplitSpec, canonical_json, parse_fold


def test_the_id_is_the_digest_of_the_canonical_json() -> None:
    spec = FeatureSpec()
    values = asdict(spec)
    del values["align"]  # said only where it is not "none": specs of before it keep their names
    text = json.dumps(values, sort_keys=True, separators=(",", ":")).replace("96000.0", "96000")
    assert spec.canonical() == text
    assert spec.id == hashlib.sha256(text.encode()).hexdigest()[:12]


def test_the_same_parameters_are_the_same_spec_however_they_are_written() -> None:
    assert FeatureSpec(sample_rate_hz=192_000.0, f_max_hz=96_000) == FeatureSpec(sample_rate_hz=192_000)
    assert FeatureSpec(sample_rate_hz=192_000.0, f_min_hz=0.0).id == FeatureSpec(f_max_hz=96_000.0, floor_db=-120.0).id
    assert FeatureSpec(hop_length=1024).id != FeatureSpec().id


def test_a_spec_survives_json() -> None:
    spec = FeatureSpec(n_mfcc=20, f_min_hz=12.5)
    assert FeatureSpec.from_json(json.loads(spec.canonical()), "here") == spec
    with pytest.raises(UsageError, match=r"here is not a spec .* fields colour differ"):
        FeatureSpec.from_json({**spec.to_json(), "colour": 1}, "here")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_fft", 3),
        ("n_fft", 2048.0),
        ("hop_length", 0),
        ("n_mels", 0),
        ("sample_rate_hz", float("nan")),
        ("sample_rate_hz", -1),
        ("f_min_hz", -1),
        ("f_min_hz", 96_000),
        ("f_max_hz", 96_001),
        ("floor_db", 0),
        ("n_mfcc", 129),
        ("windows_per_capture", 40_000),
        ("window", "../x"),
    ],
)
def test_an_impossible_value_is_named(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=rf"{name} is .*; expected"):
        FeatureSpec(**{name: value})


@pytest.mark.parametrize(("n_samples", "starts"), [(17_920, [0, 0, 0]), (17_921, [0, 0, 1]), (192_000, [0, 87_040, 174_080])])
def test_windows_are_spread_over_the_capture(n_samples: int, starts: list[int]) -> None:
    assert FeatureSpec(windows_per_capture=3).starts(n_samples) == starts


def test_one_window_is_in_the_middle() -> None:
    assert FeatureSpec().starts(192_000) == [(192_000 - 17_920) // 2]


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"val_fraction": 0.5, "test_fraction": 0.5}, "val_fraction"),
        ({"test_fraction": -0.1}, "test_fraction"),
        ({"by": "receiver"}, "by"),
        ({"fold": (5, 5)}, "fold"),
        ({"region_degrees": 0.1}, "region_degrees"),
        ({"by": "region", "region_degrees": 0.0}, "region_degrees"),
    ],
)
def test_an_impossible_split_is_named(options: dict[str, Any], name: str) -> None:
    with pytest.raises(UsageError, match=rf"{name} is"):
        SplitSpec(**options)


def test_folds_are_written_i_of_k() -> None:
    assert parse_fold("2/5") == (2, 5)
    assert SplitSpec(fold=(2, 5)).to_json()["fold"] == "2/5"
    with pytest.raises(UsageError, match="expected i/k"):
        parse_fold("2:5")


def test_canonical_json_has_one_text_for_one_value() -> None:
    assert canonical_json({"b": 1.0, "a": [2.5, None, True]}) == '{"a":[2.5,null,true],"b":1}'


def test_sha256sum_of_a_spec_file_begins_with_its_id(tmp_path: Any) -> None:
    path = tmp_path / "spec.json"
    path.write_text(FeatureSpec().canonical())
    assert subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True).stdout.startswith(FeatureSpec().id)
