"""The command `sweep`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from featurestore.commands.shell import JSON, QUIET, Sections, emit, option, share_cores
from featurestore.option import OUTPUT, SEARCH
from trainer.commands.train import train, train_request
from trainer.sweep.defaults import GRID, RANGES, SAMPLERS, TRIALS


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
@option(
    "--study",
    "name",
    heading=SEARCH,
    required=True,
    help="Name of the study. The same name continues a study, or joins in.",
)
@option(
    "--storage",
    heading=SEARCH,
    default="sqlite:///sweep.db",
    show_default=True,
    metavar="URL",
    help="Where studies are: sqlite:///FILE, or postgresql://USER@HOST/DATABASE for several machines (schema optuna).",
)
@option(
    "--search",
    "searches",
    heading=SEARCH,
    multiple=True,
    metavar="NAME=VALUES",
    help="A hyperparameter to vary, as batch_size=64,128 or dropout=0..0.5 or learning_rate=log:1e-4..3e-3. Repeat the option "
    "for several. Any of network, sessions, optimizer, loss and augmentation can be varied; a wrong name lists them.  "
    f"[default: {' '.join(GRID)}; for tpe and random {' '.join(RANGES)}]",
)
@option(
    "--sampler",
    heading=SEARCH,
    type=click.Choice(SAMPLERS),
    help="Try each combination once (grid), values near those of good trials (tpe), or values by chance (random).  "
    "[default: grid; tpe where there is a range]",
)
@option(
    "--trials",
    heading=SEARCH,
    type=click.IntRange(min=1),
    help=f"Number of trials of the study, over all processes.  [default: all of a grid, else {TRIALS}]",
)
@option(
    "--no-pruning",
    heading=SEARCH,
    is_flag=True,
    help="Run every trial to its end. Otherwise a trial ends early when, after --warmup-epochs, its validation loss is above "
    "the median of the others at that epoch.",
)
@option(
    "--out",
    "directory",
    heading=OUTPUT,
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Directory for sweep.json, sweep.png, and the best network trained here.  [default: sweep-NAME]",
)
@JSON
@QUIET
def sweep(
    *,
    name: str,
    directory: Path | None,
    storage: str,
    searches: tuple[str, ...],
    sampler: str | None,
    trials: int | None,
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
      heimdall sweep --study grid --store s3://features --storage postgresql://me@db/radio
      heimdall sweep --study tpe --store s3://features --sampler tpe --trials 60 --no-tracking
      heimdall sweep --study own --store ./features --search learning_rate=log:1e-4..3e-3 --search scale=0,0.05,0.1
    """
    share_cores()
    from featurestore.progress import on_stderr
    from trainer.sweep.plan import plan_study
    from trainer.sweep.plot import save
    from trainer.sweep.sweep import SweepRequest
    from trainer.sweep.sweep import sweep as run_sweep

    base = train_request(directory=directory or Path(f"sweep-{name}"), **options)
    plan = plan_study(name, base, searches, sampler, trials)
    plan = replace(plan, prune_after=None) if no_pruning else plan
    with on_stderr(quiet) as progress:
        report = run_sweep(SweepRequest(base, plan, storage), progress)
    pictures = save(report, base.directory)
    emit(report.to_json(), as_json, [*report.lines(), *map(str, pictures)])
