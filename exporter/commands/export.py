"""The command `export`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from exporter.commands.places import MODEL_NAME, MODELS, NO_REGISTRY, REGISTRY
from featurestore.commands.shell import STORE, Place, reported

if TYPE_CHECKING:
    from featurestore.progress import Progress


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
@reported
def export(
    progress: Progress,
    *,
    tolerance_m: float,
    tolerance_relative: float,
    registry_uri: str,
    model_name: str,
    no_registry: bool,
    **options: Any,
) -> Any:
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
    from exporter.export import export as run_export
    from exporter.release.registry import RegistryRequest
    from exporter.request import ExportRequest
    from exporter.validate.validate import Tolerance

    registry = None if no_registry else RegistryRequest(registry_uri, model_name)
    tolerance = Tolerance(absolute_m=tolerance_m, relative=tolerance_relative)
    request = ExportRequest(**options, tolerance=tolerance, registry=registry)
    return run_export(request, progress)
