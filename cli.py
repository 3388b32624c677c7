"""The command line: what `heimdall`, or `python cli.py`, knows. Each package brings its own commands."""

from __future__ import annotations

import click

from exporter.commands.export import export
from exporter.commands.predict import predict
from exporter.commands.releases import releases_group
from featurestore.commands.build import build_features
from featurestore.commands.features import features_group
from featurestore.commands.inputs import demo, ingest, services_group, simulate
from featurestore.commands.locate import locate
from featurestore.commands.pairs import build_pairs
from featurestore.commands.shell import CONTEXT, Group
from trainer.commands.doctor import doctor
from trainer.commands.evaluate import evaluate
from trainer.commands.sweep import sweep
from trainer.commands.train import train


@click.group(cls=Group, context_settings=CONTEXT)
@click.version_option(package_name="heimdall-featurestore")
def main() -> None:
    """Feature store and lean trainer for radio source localization."""


for command in (
    services_group,
    simulate,
    ingest,
    locate,
    build_features,
    build_pairs,
    features_group,
    train,
    sweep,
    evaluate,
    export,
    releases_group,
    predict,
    demo,
    doctor,
):
    main.add_command(command)

if __name__ == "__main__":
    main()
