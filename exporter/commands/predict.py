"""The command `predict`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from featurestore.commands.shell import JSON, QUIET, Place, Sections, file_option, option, share_cores, split_option
from featurestore.option import DATA, OUTPUT


@click.command(cls=Sections)
@click.argument("model")
@click.argument("captures", nargs=-1, type=click.Path(path_type=Path))
@option("--models", heading=DATA, cls=Place, metavar="URL", help="Where releases are. MODEL is then a number, or latest.")
@option("--sample-rate-hz", heading=DATA, type=float, help="Sample rate of the captures in Hz, which .npy files do not tell.")
@option(
    "--store",
    heading=DATA,
    cls=Place,
    metavar="URL",
    help="Where features are, to predict from rows of a set instead of captures.",
)
@option(
    "--features",
    "version",
    heading=DATA,
    help="Feature set: a version or a tag.  [default: the one that the network was trained on]",
)
@split_option("test")
@option(
    "--limit",
    heading=DATA,
    type=click.IntRange(min=1),
    help="Number of rows to predict, evenly spread over the split.  [default: all]",
)
@option(
    "--sessions",
    heading=DATA,
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="CSV",
    help="File that says which capture is of which session: file, session_id, websdr_id, and latitude, longitude of the "
    "receiver if known.  [default: by paths sessions/ID/websdr_N.npy]",
)
@option(
    "--format",
    "form",
    heading=OUTPUT,
    type=click.Choice(["table", "csv", "geojson"]),
    help="Format of the result.  [default: by the name of --out, else table]",
)
@option("--ellipses", heading=OUTPUT, is_flag=True, help="Add a polygon for each 1-sigma ellipse to GeoJSON.")
@file_option("--out", "File to write to, instead of stdout.")
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
    from exporter.predict.predict import format_of
    from exporter.predict.predict import predict as run_prediction
    from exporter.predict.request import PredictRequest
    from featurestore.progress import on_stderr
    from featurestore.whole_file import whole_file

    request, chosen = PredictRequest(**_without_idle_places(options)), format_of(form, out, ellipses=ellipses)
    with on_stderr(quiet) as progress:
        predictions = run_prediction(request, progress)
    if out is not None:
        with whole_file(out) as file:
            file.write(predictions.write(chosen, ellipses=ellipses).encode())
    if as_json:
        click.echo(json.dumps(predictions.to_json(), allow_nan=False))
    elif out is None:
        click.echo(predictions.write(chosen, ellipses=ellipses), nl=False)


def _without_idle_places(options: dict[str, Any]) -> dict[str, Any]:
    """`predict`'s options, but HEIMDALL_STORE beside captures, and HEIMDALL_MODELS beside a model that says where it is."""
    from exporter.release.latest import LATEST
    from exporter.release.release import NUMBER

    idle = {
        "store": bool(options["captures"] or options["sessions"]),
        "models": not (options["model"] == LATEST or NUMBER.fullmatch(options["model"])),
    }
    source = click.get_current_context().get_parameter_source
    return options | {name: None for name in idle if idle[name] and source(name) is ParameterSource.ENVIRONMENT}
