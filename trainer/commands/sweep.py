"""The command `sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from featurestore.commands.shell import JSON, QUIET, Sections, emit, option, share_cores
from featurestore.option import OUTPUT, SEARCH
from trainer.commands.train import train, train_request
from trainer.sweep.presets import PRESETS


def _like_train(command: click.Command) -> click.Command:
    """Give a command the options of `train` too, as the values of all that it does not vary."""
    own = {parameter.name for parameter in command.params} | {
        "upload_to",
        "resume",
        "profile",
        "devices",
        "num_nodes",
        "strategy",
    }
    command.params += [parameter for parameter in train.params if parameter.name not in own]
    return command


@_like_train
@click.command(cls=Sections)
@option("--study", "name", heading=SEARCH, required=True, help="Name of the study; the same one goes on with it, or joins in.")
@option(
    "--storage",
    heading=SEARCH,
    default="sqlite:///sweep.db",
    show_default=True,
    metavar="URL",
    help="Where studies are: sqlite:///FILE, or postgresql://USER@HOST/DATABASE for several machines (schema optuna).",
)
@option(
    "--preset",
    heading=SEARCH,
    type=click.Choice(list(PRESETS)),
    help="Learning rate x batch size x dropout x weight decay: "
    + "; ".join(f"{name}: {' '.join(searches)}" for name, searches in PRESETS.items())
    + ".  [default, without --search: standard; ranges for tpe and random]",
)
@option(
    "--search",
    "searches",
    heading=SEARCH,
    multiple=True,
    metavar="NAME=VALUES",
    help="A hyperparameter to vary, as batch_size=64,128 or dropout=0..0.5 or learning_rate=log:1e-4..3e-3; repeatable, and "
    "before the preset's. Any of network, optimizer, loss and augmentation; a wrong name lists them.",
)
@option(
    "--sampler",
    heading=SEARCH,
    type=click.Choice(["grid", "tpe", "random"]),
    help="Each combination once, where earlier trials were good, or by chance.  [default: grid; tpe where there is a range]",
)
@option(
    "--trials",
    heading=SEARCH,
    type=click.IntRange(min=1),
    help="Of the study, over all processes.  [default: all of a grid, else 50]",
)
@option(
    "--objective",
    heading=SEARCH,
    type=click.Choice(["loss", "error"]),
    default="loss",
    show_default=True,
    help="What is minimized: validation loss, or mean error in km at the epoch with the lowest loss.",
)
@option(
    "--pruner",
    heading=SEARCH,
    type=click.Choice(["median", "hyperband"]),
    default="median",
    show_default=True,
    help="Ends bad trials early.",
)
@option("--no-pruning", heading=SEARCH, is_flag=True, help="Run every trial to its end.")
@option(
    "--prune-after",
    heading=SEARCH,
    type=click.IntRange(min=1),
    help="Epochs before which none is ended.  [default: --warmup-epochs]",
)
@option("--startup-trials", heading=SEARCH, default=5, show_default=True, help="Complete trials before the median counts.")
@option(
    "--out",
    "directory",
    heading=OUTPUT,
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="For sweep.json, sweep.png, and the best network trained here.  [default: sweep-NAME]",
)
@JSON
@QUIET
def sweep(
    *,
    name: str,
    directory: Path | None,
    storage: str,
    preset: str | None,
    searches: tuple[str, ...],
    sampler: str | None,
    objective: str,
    no_pruning: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Search hyperparameters: many trainings, of which bad ones end early, and a table and a picture of what they found.

    The same command on several GPUs (CUDA_VISIBLE_DEVICES) or machines (--storage postgresql://...) works on one study.
    Each network trains on one device. A trial whose process is lost begins again after two minutes; Ctrl-C gives it back.
    The options of train are the values of what is not searched; all processes must give the same.

    \b
    Examples:
      heimdall sweep --study first --store ./features --backbone convnext_atto --epochs 20
      heimdall sweep --study grid --store s3://features --preset wide --storage postgresql://me@db/radio
      heimdall sweep --study tpe --store s3://features --sampler tpe --trials 60 --objective error --no-tracking
      heimdall sweep --study own --store ./features --search learning_rate=log:1e-4..3e-3 --search scale=0,0.05,0.1
    """
    share_cores()
    from featurestore.progress import on_stderr
    from trainer.sweep.report import save
    from trainer.sweep.sweep import SweepRequest, plan_study
    from trainer.sweep.sweep import sweep as run_sweep

    limits = {key: options.pop(key) for key in ("trials", "prune_after", "startup_trials")}
    pruner = options.pop("pruner")
    base = train_request(directory=directory or Path(f"sweep-{name}"), **options)
    plan = plan_study(name, base, preset, searches, sampler=sampler, pruner=None if no_pruning else pruner, **limits)
    with on_stderr(quiet) as progress:
        report = run_sweep(SweepRequest(base, plan, storage, objective), progress)
    pictures = save(report, base.directory)
    emit(report.to_json(), as_json, [*report.lines(), *map(str, pictures)])
