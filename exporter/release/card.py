"""The model card of a release: what the network was made of, how good it is, what it cannot do, and how to run it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from exporter.release.release import IQ_MODEL, MODEL

METRICS = (
    ("error_mean_m", "mean error, km", 1000.0, ".2f"),
    ("error_median_m", "median error, km", 1000.0, ".2f"),
    ("error_p90_m", "error of the best 90%, km", 1000.0, ".2f"),
    ("expected_error_m", "mean error that σ predicts, km", 1000.0, ".2f"),
    ("coverage_1_sigma", "true positions in the 1 σ ellipse (39.3% when σ is right)", 0.01, ".1f"),
    ("coverage_2_sigma", "true positions in the 2 σ ellipse (86.5% when σ is right)", 0.01, ".1f"),
    ("nll", "negative log-likelihood, nats", 1.0, ".2f"),
)

LIMITS = """\
* **One receiver hardly locates.** Level and spectrum of one recording leave the direction open. In a simulation of
  north-west Italy (transmitters anywhere in 190 × 145 km, path-loss exponent 3.2, 6 dB of shadowing) the best estimator that
  can exist errs by 52 km on average when it is given one receiver's level, and guessing the mean position by 64 km; with all
  six receivers of a transmission it errs by 16 km. So this network can tell sites apart that it knows from training; a
  transmitter at a place that is new to it is found only roughly, whatever the metrics above say of known places. Do not
  expect tens of metres.
* It points nowhere but into the region above, and knows only receivers, antennas and gains like those of its training
  data. A receiver whose gain has changed looks like one at another distance.
* σ is what the network expects of its own errors; the section on calibration says how far that holds, for data like these.
* It does not tell whether there is a transmission at all: noise gets a position, too."""

RUN_IQ = """\
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession("model-iq.onnx")
z = np.load("capture.npy")  # complex, full scale 1, {rate:g} Hz, at least {span} samples
iq = np.stack([z.real, z.imag])[None].astype(np.float32)  # (batch, 2, samples)
positions, uncertainties = session.run(None, {{"iq": iq}})
print(positions, uncertainties)  # latitude, longitude in degrees; σ_east, σ_north in metres"""

RUN_FEATURES = """\
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession("model.onnx")
features = np.load("features.npy")  # (batch, {shape}) float32, (L - mean) / std; mean and std: config.yaml
positions, uncertainties = session.run(None, {{"features": features}})
print(positions, uncertainties)  # latitude, longitude in degrees; σ_east, σ_north in metres"""


def card(config: Mapping[str, Any], metrics: Mapping[str, Any], table: str) -> str:
    """`README.md` of a release.

    Args:
        config: the content of `config.yaml`.
        metrics: the content of `metrics.json`.
        table: each precision, measured; Markdown.
    """
    header = yaml.safe_dump(_header(config, metrics), sort_keys=False, allow_unicode=True)
    return "\n".join(["---", header.rstrip(), "---", "", *_page(config, metrics, table)]) + "\n"


def _header(config: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "library_name": "onnxruntime",
        "tags": ["radio-localization", "software-defined-radio", "onnx"],
        "release": config["release"],
        "created": config["created"],
        "precision": config["precision"],
        "backbone": config["training"]["network"]["backbone"],
        "feature_set": config["features"]["version"],
        "spec": config["features"]["spec_id"],
        "basis": config["features"]["basis"],
        "files": sorted(metrics["files"]),
        "metrics": {
            split: {name: round(found["metrics"][name], 4) for name, *_ in METRICS}
            for split, found in metrics["evaluation"].items()
        },
    }


def _page(config: Mapping[str, Any], metrics: Mapping[str, Any], table: str) -> Iterator[str]:
    features, region, spec = config["features"], config["region"], config["features"]["spec"]
    with_iq = IQ_MODEL in metrics["files"]
    yield from (f"# Radio source localization, release {config['release']}", "")
    yield "Where a transmitter is, and how sure that is, from what one receiver recorded of it."
    yield from ("", "## Run it", "", "```python")
    shape = ", ".join(map(str, (3, spec["n_mfcc"] or spec["n_mels"], spec["n_frames"])))
    span = spec["n_fft"] + (spec["n_frames"] - 1) * spec["hop_length"]
    yield RUN_IQ.format(rate=spec["sample_rate_hz"], span=span) if with_iq else RUN_FEATURES.format(shape=shape)
    yield from ("```", "", "`heimdall predict` does the same from the command line, and writes CSV and GeoJSON.", "")
    yield from ("## Data", "")
    yield (
        f"Trained on feature set `{features['version']}` (spec `{features['spec_id']}`, basis `{features['basis']}`), a "
        f"ConvNeXt ({config['training']['network']['backbone']}), epoch {config['checkpoint']['epoch']}. The region is the "
        f"square within {region['half_extent_m'] / 1000:.0f} km east, west, north and south of {region['latitude']:.4f}, "
        f"{region['longitude']:.4f}. All parameters are in `config.yaml`."
    )
    yield from ("", "## Metrics", "", *_metrics(metrics["evaluation"]), "")
    yield from _calibration(metrics["evaluation"])
    yield from ("", "## Validation and precision", "", *_validation(metrics), "")
    yield f"Published: {config['precision']}. Measured on the {metrics['precision']['split']} split, on the CPU that exported:"
    yield from ("", table, "", "## Limits", "", LIMITS)
    if metrics["notes"]:
        yield from ("", "## Notes", "", *(f"* {note}" for note in metrics["notes"]))


def _metrics(evaluation: Mapping[str, Any]) -> Iterator[str]:
    baseline = {split: found["baselines"].get("predict_the_mean") for split, found in evaluation.items()}
    yield f"| | {' | '.join(evaluation)} |"
    yield f"| --- |{' --- |' * len(evaluation)}"
    yield f"| rows | {' | '.join(format(found['rows'], ',') for found in evaluation.values())} |"
    for name, label, unit, form in METRICS:
        percent = "%" if unit == 0.01 else ""
        cells = [format(found["metrics"][name] / unit, form) + percent for found in evaluation.values()]
        yield f"| {label} | {' | '.join(cells)} |"
    cells = [format(found["error_mean_m"] / 1000, ".2f") if found else "" for found in baseline.values()]
    yield f"| mean error of always guessing the mean position, km | {' | '.join(cells)} |"


def _calibration(evaluation: Mapping[str, Any]) -> Iterator[str]:
    yield from ("## Calibration", "")
    for split, found in evaluation.items():
        expected, error = found["metrics"]["expected_error_m"], found["metrics"]["error_mean_m"]
        word = "too large: it is cautious" if expected > error else "too small: it is overconfident"
        off = abs(expected - error) / max(error, 1e-9)
        says = "agrees with the errors within 10%" if off < 0.1 else f"is, taken together, {off:.0%} {word}"
        yield f"* {split}: σ {says} (errors {error / 1000:.2f} km on average, expected {expected / 1000:.2f} km)."


def _validation(metrics: Mapping[str, Any]) -> Iterator[str]:
    for name in (MODEL, IQ_MODEL):
        if name in metrics["validation"]:
            found = metrics["validation"][name]
            speed = found["latency_ms"].get("1")
            fast = f"; {speed['onnx']:.1f} ms at batch 1, {speed['speedup']:.1f} times as fast as PyTorch" if speed else ""
            yield (
                f"* `{name}` in fp32 against PyTorch, {found['rows']} {'rows' if speed else 'captures'} of the "
                f"{found['split']} split: {100 * found['share']:.1f}% within tolerance, at most "
                f"{found['difference_m']:.2g} m apart{fast}."
            )
