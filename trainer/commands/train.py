"""The command `train`."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from featurestore.commands.shell import STORE, reported
from trainer.defaults import by_locate, defaults_of

if TYPE_CHECKING:
    from featurestore.progress import Progress

CACHE_HELP = "Keep the set in memory once it was read: on the GPU, in RAM, where it fits (auto), or not at all."


@click.command()
@STORE
@click.option("--features", "version", default="latest", show_default=True, help="Feature set: a version or a tag.")
@click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    default="checkpoints",
    show_default=True,
    help="Where checkpoints go: the three best and the last.",
)
@click.option("--checkpoints", "upload_to", metavar="URL", help="Copy checkpoints there, too: s3://BUCKET/PREFIX.")
@click.option("--resume", metavar="last|PATH", help="Go on from a checkpoint, exactly.")
@click.option(
    "--locate",
    type=click.Choice(["session", "capture"]),
    help="What is located: transmissions, by all that heard them, or each capture by itself.  [default: session where most "
    "sessions have two receivers or more; capture with --backbone]",
)
@click.option(
    "--fusion",
    type=click.Choice(["radio-map", "attention"]),
    default="radio-map",
    show_default=True,
    help="Of sessions: levels and a kriged map of each receiver, or self-attention over captures.",
)
@click.option(
    "--encoder", default="levels", show_default=True, help="Of a session's captures: levels, or a ConvNeXt as for --backbone."
)
@click.option(
    "--receivers-by",
    type=click.Choice(["identity", "position", "both"]),
    default="both",
    show_default=True,
    help="How sessions know receivers; by position also those that training never heard.",
)
@click.option("--grid-km", default=0.0, metavar="KM", help="Cells of a session's posterior.  [default: by region]")
@click.option(
    "--exclude-receiver", "exclude_receivers", multiple=True, type=int, metavar="N", help="Leave a receiver out; repeatable."
)
@click.option("--backbone", metavar="NAME", help="tiny, small, base, large, or a ConvNeXt's name in timm.  [default: large]")
@click.option("--pretrained", is_flag=True, help="Begin with the backbone's weights from timm's hub.")
@click.option(
    "--weights",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Begin with a timm checkpoint (.safetensors); needs no hub.",
)
@click.option("--dropout", default=0.1, show_default=True, help="Of both heads.")
@click.option("--drop-path", default=0.1, show_default=True, help="Stochastic depth of the backbone.")
@click.option("--freeze-backbone", is_flag=True, help="Train neck and heads only.")
@click.option("--gradient-checkpointing", is_flag=True, help="Less memory, more time.")
@click.option("--batch-size", type=int, help=f"Rows of one device's batch, or sessions.  {by_locate('batch_size')}")
@click.option("--epochs", "max_epochs", type=int, help=f"Epochs, at most.  {by_locate('max_epochs')}")
@click.option("--warmup-epochs", type=int, help=f"Epochs until the learning rate is highest.  {by_locate('warmup_epochs')}")
@click.option("--learning-rate", type=float, help=f"Highest learning rate, of AdamW.  {by_locate('learning_rate')}")
@click.option("--weight-decay", type=float, help=f"Of AdamW.  {by_locate('weight_decay')}")
@click.option("--patience", default=10, show_default=True, help="Epochs without improvement until training stops.")
@click.option(
    "--loss",
    "kind",
    type=click.Choice(["gaussian-nll", "beta-nll"]),
    default="gaussian-nll",
    show_default=True,
    help="beta-nll keeps rows with a large sigma from being neglected.",
)
@click.option("--beta", default=0.5, show_default=True, help="Of beta-nll.")
@click.option("--mean-warmup-epochs", default=0, show_default=True, help="Epochs in which sigma is held.")
@click.option(
    "--band-dropout", type=float, help=f"Augmentation: probability that a mel band is zeroed.  {by_locate('band_dropout')}"
)
@click.option(
    "--time-dropout", type=float, help=f"Augmentation: probability that a frame is zeroed.  {by_locate('time_dropout')}"
)
@click.option("--max-shift", type=int, help=f"Augmentation: largest shift in frames.  {by_locate('max_shift')}")
@click.option("--scale", type=float, help=f"Augmentation: values are multiplied by 1 +/- this, at most.  {by_locate('scale')}")
@click.option("--seed", default=42, show_default=True, help="Of weights, order, dropout and augmentation.")
@click.option("--cache", type=click.Choice(["auto", "gpu", "ram", "off"]), default="auto", show_default=True, help=CACHE_HELP)
@click.option("--threads", default=4, show_default=True, help="Threads that fetch chunks.")
@click.option(
    "--precision",
    type=click.Choice(["auto", "32", "bf16", "16"]),
    default="auto",
    show_default=True,
    help="auto: mixed bf16 on GPUs that have it.",
)
@click.option("--compile", is_flag=True, help="Compile the step; the first one takes a minute or so.")
@click.option("--profile", is_flag=True, help="See where a step goes: table and trace in DIR/profile.")
@click.option("--accelerator", default="auto", show_default=True, help="auto, gpu or cpu.")
@click.option("--devices", default="auto", show_default=True, help="How many on each node, or which, as 0,1.")
@click.option("--num-nodes", default=1, show_default=True, help="Machines that train together.")
@click.option("--strategy", default="auto", show_default=True, help="Lightning's: ddp, ...; auto is ddp on several devices.")
@click.option(
    "--tracking-uri", envvar="MLFLOW_TRACKING_URI", default="sqlite:///mlflow.db", show_default=True, help="Of MLflow."
)
@click.option("--experiment", default="heimdall", show_default=True, help="Of MLflow; created when there is none.")
@click.option("--artifacts", metavar="URL", help="Where a new experiment keeps files, as s3://BUCKET/PREFIX.")
@click.option("--run-name", help="Of MLflow.")
@click.option("--no-tracking", is_flag=True, help="Without MLflow.")
@reported
def train(progress: Progress, **options: Any) -> Any:
    """Train a network on a feature set: reads the store and nothing else.

    Where several receivers heard a transmission, they locate it together (--locate session): a posterior of place from all of
    its captures. A --backbone asks for a network that sees one capture.

    Ctrl-C (or SIGTERM) saves last.ckpt and stops; the same command with --resume last goes on exactly there. Several GPUs of
    one machine are used without being asked for; for several machines see Lightning's variables (MASTER_ADDR, NODE_RANK).

    \b
    Examples:
      heimdall train --store s3://features --features baseline --checkpoints s3://checkpoints
      heimdall train --store ./features --accelerator cpu --no-tracking
      heimdall train --store ./features --fusion attention --exclude-receiver 5
      heimdall train --store ./features --backbone convnext_atto --epochs 5 --no-tracking
      heimdall train --store ./features --backbone convnext_atto --epochs 5 --resume last
      heimdall train --store s3://features --tracking-uri postgresql+psycopg://me@db/mlflow --artifacts s3://mlflow
    """
    from trainer import fit

    return fit(train_request(**options), progress)  # ranks but the first have nothing to say


def train_request(*, no_tracking: bool, tracking_uri: str, seed: int, **options: Any) -> Any:
    """The `TrainRequest` that the options of `train` describe."""
    from trainer.fitting.locate import choose_locate
    from trainer.fitting.request import Hardware, TrainRequest
    from trainer.fitting.tracking import TrackingRequest
    from trainer.network.augment import AugmentSpec
    from trainer.network.loss import LossSpec
    from trainer.network.network_spec import NetworkSpec
    from trainer.network.session.spec import SessionSpec
    from trainer.network.training_spec import OptimizerSpec, TrainingSpec
    from trainer.stream.source import StreamOptions

    def take(kind: Any, **more: Any) -> Any:
        return kind(**{field.name: options.pop(field.name) for field in fields(kind) if field.name in options}, **more)

    locate = choose_locate(options.pop("locate"), options["backbone"], options["store"], options["version"])
    session = take(SessionSpec) if locate == "session" else None
    for name in ("fusion", "encoder", "receivers_by", "grid_km", "exclude_receivers"):
        options.pop(name, None)
    for name, value in defaults_of(locate if session is None else session.fusion).items():
        options[name] = value if options[name] is None else options[name]
    tracking = take(TrackingRequest, uri=tracking_uri)
    return TrainRequest(
        training=TrainingSpec(take(NetworkSpec), take(OptimizerSpec), take(LossSpec), take(AugmentSpec), seed, session),
        stream=take(StreamOptions),
        hardware=take(Hardware),
        tracking=None if no_tracking else tracking,
        **options,
    )
