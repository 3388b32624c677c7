"""The command `train`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from featurestore.commands.record_options import options_of, record_of
from featurestore.commands.shell import STORE, Sections, option, reported
from featurestore.option import NETWORK, TRACKING, options_in
from trainer.fitting.request import Hardware, TrackingRequest, TrainRequest, usual_request
from trainer.network.network_spec import NetworkSpec
from trainer.network.session.spec import SessionSpec
from trainer.network.training_spec import AugmentSpec, LossSpec, OptimizerSpec, TrainingSpec
from trainer.stream.options import StreamOptions

if TYPE_CHECKING:
    from featurestore.progress import Progress

CAPTURES, RADIO_MAP, ATTENTION = (
    usual_request("", session) for session in (None, SessionSpec("radio-map"), SessionSpec("attention"))
)


def _varying() -> dict[str, str]:
    """Defaults that depend on what is located, in words, by field."""
    defaults = {"backbone": "large"}  # to give one decides what is located
    each = [(usual, usual.training.optimizer, usual.training.augment) for usual in (CAPTURES, RADIO_MAP, ATTENTION)]
    for records in zip(*each, strict=True):
        for field, _ in options_in(type(records[0])):
            capture, radio_map, attention = (getattr(record, field.name) for record in records)
            if not capture == radio_map == attention:
                other = "" if radio_map == attention else f" ({attention:g} with --fusion attention)"
                defaults[field.name] = f"{capture:g}; for sessions {radio_map:g}{other}"
    return defaults


VARYING = _varying()


@click.command(cls=Sections)
@STORE
@options_of(TrainRequest, StreamOptions, unset=VARYING)
@option(
    "--locate",
    heading=NETWORK,
    type=click.Choice(["session", "capture"]),
    help="What is located: transmissions, by all receivers that heard them, or each capture by itself.  [default: capture with "
    "--backbone; else session where most sessions have two receivers or more]",
)
@options_of(NetworkSpec, SessionSpec, OptimizerSpec, LossSpec, AugmentSpec, TrainingSpec, unset=VARYING)
@options_of(Hardware, TrackingRequest)
@option("--no-tracking", heading=TRACKING, is_flag=True, help="Train without MLflow.")
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


def train_request(*, store: str, locate: str | None, no_tracking: bool, **options: Any) -> TrainRequest:
    """The `TrainRequest` that the options of `train` describe."""
    from trainer.fitting.locate import choose_locate

    locate = choose_locate(locate, options["backbone"], store, options["version"])
    session = record_of(SessionSpec, options)
    usual = usual_request(store, session if locate == "session" else None)
    training = usual.training
    training = record_of(
        TrainingSpec,
        options,
        training,
        network=record_of(NetworkSpec, options),
        optimizer=record_of(OptimizerSpec, options, training.optimizer),
        loss=record_of(LossSpec, options),
        augment=record_of(AugmentSpec, options, training.augment),
    )
    tracking = record_of(TrackingRequest, options)
    return record_of(
        TrainRequest,
        options,
        usual,
        training=training,
        stream=record_of(StreamOptions, options),
        hardware=record_of(Hardware, options),
        tracking=None if no_tracking else tracking,
    )
