"""The command `export`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from exporter.commands.places import MODEL_NAME, MODELS, NO_REGISTRY, REGISTRY
from featurestore.commands.shell import STORE, Place, Sections, option, reported
from featurestore.option import DATA, NETWORK, OUTPUT

if TYPE_CHECKING:
    from featurestore.progress import Progress


@click.command(cls=Sections)
@click.argument("checkpoint")
@MODELS
@STORE
@option(
    "--features",
    "version",
    heading=DATA,
    help="Feature set to validate and measure on: a version or a tag.  [default: the one that the network was trained on]",
)
@option(
    "--release", heading=OUTPUT, metavar="X.Y.Z", help="Number of the release.  [default: the next patch; the first is 0.1.0]"
)
@option(
    "--input",
    heading=NETWORK,
    type=click.Choice(["features", "iq"]),
    help="What graphs take: features only, or also raw IQ (iq), which adds model-iq.onnx and needs --raw.  [default: iq with "
    "--raw, else features]",
)
@option(
    "--raw",
    heading=DATA,
    cls=Place,
    metavar="URL",
    help="Where the captures of the set are. The IQ graph is validated on some of them.",
)
@option(
    "--captures",
    heading=DATA,
    default=16,
    show_default=True,
    help="Number of captures, at most, that the IQ graph is validated on.",
)
@option(
    "--precision",
    heading=NETWORK,
    type=click.Choice(["fp32", "fp16", "int8-weights", "auto"]),
    default="fp32",
    show_default=True,
    help="Precision of the backbone. auto: the most accurate one that fits --max-size-mb.",
)
@option(
    "--max-size-mb",
    heading=NETWORK,
    type=float,
    help="Refuse graphs that are larger than this many MB (10^6 bytes).  [default: no limit]",
)
@option(
    "--tolerance-m",
    heading=NETWORK,
    default=0.1,
    show_default=True,
    help="Distance in metres that a position may be off PyTorch's, in addition to --tolerance-relative.",
)
@option(
    "--tolerance-relative",
    heading=NETWORK,
    default=1e-4,
    show_default=True,
    help="Share of sigma that a position, or sigma itself, may be off PyTorch's.",
)
@option(
    "--promote", heading=OUTPUT, is_flag=True, help="Let services use the release at once.  [default: the first release only]"
)
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
