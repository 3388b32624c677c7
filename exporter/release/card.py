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


SESSION_LABELS = {
    "expected_error_m": "mean error that posteriors expect, km",
    "coverage_1_sigma": "true positions in the 39.3% region of highest density",
    "coverage_2_sigma": "true positions in the 86.5% region of highest density",
}

SESSION_LIMITS = """\
* It points nowhere but into the region above: the grid ends there, and a transmitter beyond it is put at its edge.
* The more receivers, the better. With one, level alone leaves the direction open; `metrics.by_receivers_present` in
  `metrics.json` says how errors fall with every receiver.
* A receiver is known by its number, and where the network was trained so, by where it stands. One whose gain has changed since
  training looks like one at another distance. A receiver that is neither known nor placed changes nothing.
* The density is what the network expects of its own errors; the section on calibration says how far that holds, for data like
  these.
* It does not tell whether there is a transmission at all: noise gets a position, too."""

RUN_SESSION = """\
import json, numpy as np, onnxruntime
session = onnxruntime.InferenceSession("{model}")
about = json.loads(session.get_modelmeta().custom_metadata_map["session"])
stands = {{each["websdr_id"]: (each["latitude"], each["longitude"]) for each in about["receivers"]}}
{load}
receiver_id = np.array([[{ids}]])  # (batch, receiver)
place = [[stands.get(number, (None, None)) for number in row] for row in receiver_id.tolist()]
position = np.array(place, np.float32)  # degrees, NaN where unknown
present = np.ones(receiver_id.shape, bool)  # False where there is no capture
inputs = {{"{input}": values, "receiver_id": receiver_id, "receiver_position": position, "present": present}}
positions, covariances, log_density = session.run(None, inputs)
print(positions, covariances)  # latitude, longitude in degrees; covariance of east and north in m²"""

LOAD_IQ = """\
z = np.stack([np.load(f"websdr_{{n}}.npy")[:{span}] for n in ({ids},)])  # complex, full scale 1, {rate:g} Hz
values = np.stack([z.real, z.imag], axis=1)[None].astype(np.float32)  # (batch, receiver, 2, samples)"""

LOAD_FEATURES = """\
values = np.load("features.npy")  # (batch, receiver, {shape}) float32, (L - mean) / std; mean and std: config.yaml"""


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
        "backbone": _encoder(config),
        **({"located": "session"} if "session" in config else {}),
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
    features, region, of_session = config["features"], config["region"], "session" in config
    yield from (f"# Radio source localization, release {config['release']}", "")
    heard = "all receivers that heard it" if of_session else "one receiver"
    yield f"Where a transmitter is, and how sure that is, from what {heard} recorded of it."
    yield from ("", "## Run it", "", "```python")
    yield _script(config, with_iq=IQ_MODEL in metrics["files"])
    yield from ("```", "", "`heimdall predict` does the same from the command line, and writes CSV and GeoJSON.", "")
    yield from ("## Data", "")
    yield (
        f"Trained on feature set `{features['version']}` (spec `{features['spec_id']}`, basis `{features['basis']}`), "
        f"{_network(config)}, epoch {config['checkpoint']['epoch']}. The region is the "
        f"square within {region['half_extent_m'] / 1000:.0f} km east, west, north and south of {region['latitude']:.4f}, "
        f"{region['longitude']:.4f}. All parameters are in `config.yaml`."
    )
    yield from ("", "## Metrics", "", *_metrics(metrics["evaluation"], SESSION_LABELS if of_session else {}), "")
    yield from _calibration(metrics["evaluation"], "the density" if of_session else "σ")
    yield from ("", "## Validation and precision", "", *_validation(metrics), "")
    yield f"Published: {config['precision']}. Measured on the {metrics['precision']['split']} split, on the CPU that exported:"
    yield from ("", table, "", "## Limits", "", SESSION_LIMITS if of_session else LIMITS)
    if metrics["notes"]:
        yield from ("", "## Notes", "", *(f"* {note}" for note in metrics["notes"]))


def _encoder(config: Mapping[str, Any]) -> str:
    session = config.get("session")
    return str(config["training"]["network"]["backbone"] if session is None else session["encoder"])


def _network(config: Mapping[str, Any]) -> str:
    session = config.get("session")
    if session is None:
        return f"a ConvNeXt ({_encoder(config)})"
    receivers = ", ".join(str(each["websdr_id"]) for each in session["receivers"])
    grid = session["grid"]
    return (
        f"{session['encoder']} + {session['fusion']} (receivers {receivers}, by {session['receivers_by']}; densities on "
        f"{grid['rows']} × {grid['columns']} cells of {grid['cell_m'] / 1000:g} km)"
    )


def _script(config: Mapping[str, Any], *, with_iq: bool) -> str:
    """How to run it with ONNX Runtime alone."""
    spec, session = config["features"]["spec"], config.get("session")
    shape = ", ".join(map(str, (3, spec["n_mfcc"] or spec["n_mels"], spec["n_frames"])))
    span = spec["n_fft"] + (spec["n_frames"] - 1) * spec["hop_length"]
    if session is None:
        return RUN_IQ.format(rate=spec["sample_rate_hz"], span=span) if with_iq else RUN_FEATURES.format(shape=shape)
    ids = ", ".join(str(each["websdr_id"]) for each in session["receivers"])
    load = LOAD_IQ.format(span=span, ids=ids, rate=spec["sample_rate_hz"]) if with_iq else LOAD_FEATURES.format(shape=shape)
    model, name = (IQ_MODEL, "iq") if with_iq else (MODEL, "features")
    return RUN_SESSION.format(model=model, input=name, load=load, ids=ids)


def _metrics(evaluation: Mapping[str, Any], labels: Mapping[str, str]) -> Iterator[str]:
    baseline = {split: found["baselines"].get("predict_the_mean") for split, found in evaluation.items()}
    yield f"| | {' | '.join(evaluation)} |"
    yield f"| --- |{' --- |' * len(evaluation)}"
    for name in ("sessions", "rows"):
        if all(name in found for found in evaluation.values()):
            yield f"| {name} | {' | '.join(format(found[name], ',') for found in evaluation.values())} |"
    for name, label, unit, form in METRICS:
        percent = "%" if unit == 0.01 else ""
        cells = [format(found["metrics"][name] / unit, form) + percent for found in evaluation.values()]
        yield f"| {labels.get(name, label)} | {' | '.join(cells)} |"
    cells = [format(found["error_mean_m"] / 1000, ".2f") if found else "" for found in baseline.values()]
    yield f"| mean error of always guessing the mean position, km | {' | '.join(cells)} |"


def _calibration(evaluation: Mapping[str, Any], what: str) -> Iterator[str]:
    yield from ("## Calibration", "")
    for split, found in evaluation.items():
        expected, error = found["metrics"]["expected_error_m"], found["metrics"]["error_mean_m"]
        word = "too large: it is cautious" if expected > error else "too small: it is overconfident"
        off = abs(expected - error) / max(error, 1e-9)
        says = "agrees with the errors within 10%" if off < 0.1 else f"is, taken together, {off:.0%} {word}"
        yield f"* {split}: {what} {says} (errors {error / 1000:.2f} km on average, expected {expected / 1000:.2f} km)."


def _validation(metrics: Mapping[str, Any]) -> Iterator[str]:
    for name in (MODEL, IQ_MODEL):
        if name in metrics["validation"]:
            found = metrics["validation"][name]
            speed = found["latency_ms"].get("1")
            fast = f"; {speed['onnx']:.1f} ms at batch 1, {speed['speedup']:.1f} times as fast as PyTorch" if speed else ""
            yield (
                f"* `{name}` in fp32 against PyTorch, {found['rows']} {found['unit']} of the "
                f"{found['split']} split: {100 * found['share']:.1f}% within tolerance, at most "
                f"{found['difference_m']:.2g} m apart{fast}."
            )
