"""The commands `export`, `releases …` and `predict`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from exporter.idle_places import without_idle_places
from featurestore.commands.shell import JSON, QUIET, STORE, Place, emit, share_cores

MODELS = click.option(
    "--models",
    cls=Place,
    required=True,
    metavar="URL",
    help="Where releases are: s3://BUCKET/PREFIX, file:///DIR or a directory.",
)
REGISTRY = click.option(
    "--registry-uri", envvar="MLFLOW_TRACKING_URI", default="sqlite:///mlflow.db", show_default=True, help="Of MLflow."
)
MODEL_NAME = click.option("--model-name", default="heimdall", show_default=True, help="Of the registered model.")
NO_REGISTRY = click.option("--no-registry", is_flag=True, help="Without MLflow.")


@click.command()
@click.argument("checkpoint")
@MODELS
@STORE
@click.option(
    "--features",
    "version",
    help="Feature set to validate and measure on: a version or a tag.  [default: the one that the network was trained on]",
)
@click.option("--release", metavar="X.Y.Z", help="Its number.  [default: the next patch; the first is 0.1.0]")
@click.option(
    "--input",
    type=click.Choice(["features", "iq"]),
    help="iq adds model-iq.onnx, which takes raw IQ; needs --raw.  [default: iq with --raw, else features]",
)
@click.option(
    "--raw", cls=Place, metavar="URL", help="Where the set's captures are: the IQ graph is validated on some of them."
)
@click.option("--captures", default=16, show_default=True, help="Of how many, at most.")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "int8-weights", "auto"]),
    default="fp32",
    show_default=True,
    help="Of the backbone; auto: the most accurate that fits --max-size-mb.",
)
@click.option("--max-size-mb", type=float, help="Refuse graphs that are larger, in units of 10^6 bytes.  [default: off]")
@click.option("--tolerance-m", default=0.1, show_default=True, help="How far from PyTorch's a position may be, beside ...")
@click.option(
    "--tolerance-relative", default=1e-4, show_default=True, help="... this share of sigma, which goes for sigma, too."
)
@click.option("--promote", is_flag=True, help="Let services use it at once.  [default: the first release only]")
@REGISTRY
@MODEL_NAME
@NO_REGISTRY
@JSON
@QUIET
def export(
    *,
    tolerance_m: float,
    tolerance_relative: float,
    registry_uri: str,
    model_name: str,
    no_registry: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Publish a checkpoint as a validated, versioned ONNX release.

    CHECKPOINT is a file, or s3://BUCKET/.../NAME.ckpt. The graphs are compared with PyTorch on rows of the val split; one that
    differs is not published (exit 3). A release is visible when all of it is there, and is never changed. It is registered
    in MLflow as candidate; services that follow latest.json use it once it is promoted. docs/exporting.md says more.

    \b
    Examples:
      heimdall export checkpoints/last.ckpt --models ./models --store ./features --no-registry
      heimdall export checkpoints/last.ckpt --models s3://models --store s3://features --raw s3://captures --release 1.2.0
      heimdall export last.ckpt --models s3://models --store s3://features --precision auto --max-size-mb 100
    """
    share_cores()
    from exporter.export import export as run_export
    from exporter.release.registry import RegistryRequest
    from exporter.request import ExportRequest
    from exporter.validate.validate import Tolerance
    from featurestore.progress import on_stderr

    registry = None if no_registry else RegistryRequest(registry_uri, model_name)
    tolerance = Tolerance(absolute_m=tolerance_m, relative=tolerance_relative)
    request = ExportRequest(**options, tolerance=tolerance, registry=registry)
    with on_stderr(quiet) as progress:
        report = run_export(request, progress)
    emit(report.to_json(), as_json, lambda _: click.echo("\n".join(report.lines())))


@click.group("releases")
def releases_group() -> None:
    """Look after releases: list, show, compare, promote, roll back.

    \b
    Examples:
      heimdall releases list --models s3://models
      heimdall releases compare 1.1.0 1.2.0 --models s3://models --store s3://features
      heimdall releases promote 1.2.0 --models s3://models
    """


@releases_group.command("list")
@MODELS
@JSON
def list_releases(models: str, as_json: bool) -> None:
    """List releases, the highest number first, and say which one services use.

    \b
    Examples:
      heimdall releases list --models ./models
      heimdall releases list --models s3://models --json
    """
    from exporter.release.overview import list_lines, summarize

    emit(summarize(models), as_json, lambda found: click.echo("\n".join(list_lines(found))))


@releases_group.command("show")
@click.argument("release", default="latest")
@MODELS
@JSON
def show_release(release: str, models: str, as_json: bool) -> None:
    """Show one release: what it was made of, metrics, files and their digests. RELEASE is a number; default: the latest.

    \b
    Examples:
      heimdall releases show --models ./models
      heimdall releases show 1.2.0 --models s3://models --json
    """
    from exporter.release.overview import show, show_lines

    emit(show(models, release), as_json, lambda found: click.echo("\n".join(show_lines(found))))


@releases_group.command("compare")
@click.argument("a")
@click.argument("b")
@MODELS
@STORE
@click.option("--features", "version", help="Feature set: a version or a tag.  [default: the one that A was trained on]")
@click.option("--split", type=click.Choice(["train", "val", "test"]), default="test", show_default=True, help="Which rows.")
@click.option("--confidence", default=0.95, show_default=True, help="Of the interval of the difference.")
@click.option("--draws", default=5000, show_default=True, help="Of the bootstrap over sessions.")
@click.option("--seed", default=0, show_default=True, help="Of the bootstrap.")
@click.option(
    "--html",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write a report as one HTML page: both side by side, errors, calibration, map, where they differ.",
)
@JSON
@QUIET
def compare_releases(*, as_json: bool, quiet: bool, **options: Any) -> None:
    """Run releases A and B over the same rows, offline: errors, calibration, latency, size, and which one is better.

    The verdict is about the mean error, row by row; it is that these rows cannot tell when the confidence interval of the
    difference holds 0. A and B are numbers, or latest.

    \b
    Examples:
      heimdall releases compare latest 1.2.0 --models s3://models --store s3://features
      heimdall releases compare 1.1.0 1.2.0 --models ./models --store ./features --split val --json
      heimdall releases compare 1.1.0 latest --models ./models --store ./features --html comparison.html
    """
    share_cores()
    from exporter.release.compare import compare
    from exporter.release.paired import CompareRequest
    from featurestore.progress import on_stderr

    with on_stderr(quiet) as progress:
        found = compare(CompareRequest(**options), progress)
    emit(found.to_json(), as_json, lambda _: click.echo("\n".join(found.lines())))


@releases_group.command("promote")
@click.argument("release")
@MODELS
@REGISTRY
@MODEL_NAME
@NO_REGISTRY
@JSON
def promote_release(release: str, models: str, registry_uri: str, model_name: str, no_registry: bool, as_json: bool) -> None:
    """Let services use a release: moves alias champion, then latest.json. Registers it if that was not done.

    \b
    Examples:
      heimdall releases promote 1.2.0 --models s3://models
      heimdall releases promote 1.2.0 --models ./models --no-registry
    """
    from exporter.release.latest import promote, read_release

    found = read_release(models, release)
    moved = promote(found, open_registry(registry_uri, model_name, no_registry))
    emit(moved.to_json(), as_json, lambda _: click.echo("\n".join(moved.lines())))


@releases_group.command("rollback")
@MODELS
@REGISTRY
@MODEL_NAME
@NO_REGISTRY
@JSON
def rollback_release(models: str, registry_uri: str, model_name: str, no_registry: bool, as_json: bool) -> None:
    """Let services use the release again that they used before the last promotion.

    \b
    Examples:
      heimdall releases rollback --models s3://models
      heimdall releases rollback --models ./models --no-registry
    """
    from exporter.release.latest import rollback

    moved = rollback(models, open_registry(registry_uri, model_name, no_registry))
    emit(moved.to_json(), as_json, lambda _: click.echo("\n".join(moved.lines())))


def open_registry(uri: str, model: str, without: bool) -> Any:
    """MLflow's, which has answered; or none."""
    if without:
        return None
    from exporter.release import registry

    return registry.open_registry(registry.RegistryRequest(uri, model))


@click.command()
@click.argument("model")
@click.argument("captures", nargs=-1, type=click.Path(path_type=Path))
@click.option("--models", cls=Place, metavar="URL", help="Where releases are; MODEL is a number then, or latest.")
@click.option("--sample-rate-hz", type=float, help="Of the captures; .npy files do not say it.")
@click.option("--store", cls=Place, metavar="URL", help="Predict from rows of a feature set there, instead of captures.")
@click.option(
    "--features", "version", help="Feature set: a version or a tag.  [default: the one that the network was trained on]"
)
@click.option("--split", type=click.Choice(["train", "val", "test"]), default="test", show_default=True, help="Which rows.")
@click.option("--limit", type=click.IntRange(min=1), help="So many rows, spread evenly over the split.  [default: all]")
@click.option(
    "--sessions",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="CSV",
    help="Which capture is of which session: file, session_id, websdr_id, and latitude, longitude of the receiver if known.  "
    "[default: by paths sessions/ID/websdr_N.npy]",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "geojson"]),
    help="[default: by the name of --out, else table]",
)
@click.option("--ellipses", is_flag=True, help="In GeoJSON, add a polygon for each 1-sigma ellipse.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write there, not to stdout.")
@JSON
@QUIET
def predict(*, form: str | None, ellipses: bool, out: Path | None, as_json: bool, quiet: bool, **options: Any) -> None:
    """Say where transmitters are, from captures or from rows of a feature set; needs no torch.

    MODEL is an .onnx file, a release (s3://BUCKET/PREFIX/v1.2.0 or its directory), or where releases are: the latest of them.
    CAPTURES are .npy files of complex samples, or directories of them; one that is not usable is left out, and said. Where the
    model locates sessions, captures of one session become one prediction, and GeoJSON holds its 39.3% and 86.5% regions.

    \b
    Examples:
      heimdall predict s3://models recording.npy --sample-rate-hz 192000
      heimdall predict models/v1.2.0 recordings --sample-rate-hz 192000 --out positions.geojson --ellipses
      heimdall predict 1.2.0 --models s3://models --store s3://features --split test --limit 20 --format csv
      heimdall predict model-iq.onnx recording.npy --sample-rate-hz 192000 --json
      heimdall predict s3://models captures --sample-rate-hz 192000 --out regions.geojson
    """
    share_cores()
    from exporter.predict.predict import PredictRequest, format_of
    from exporter.predict.predict import predict as run_prediction
    from featurestore.progress import on_stderr
    from featurestore.whole_file import whole_file

    request, chosen = PredictRequest(**without_idle_places(options)), format_of(form, out, ellipses=ellipses)
    with on_stderr(quiet) as progress:
        found = run_prediction(request, progress)
    if out is not None:
        with whole_file(out) as file:
            file.write(found.write(chosen, ellipses=ellipses).encode())
    if as_json:
        click.echo(json.dumps(found.to_json(), allow_nan=False))
    elif out is None:
        click.echo(found.write(chosen, ellipses=ellipses), nl=False)
