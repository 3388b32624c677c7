"""Writes docs/cli.md, which is the help of every command, and the tables of options in other pages.

python docs/cli_page.py
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent))

# ruff: noqa: E402 - found by the line above
from cli import main
from featurestore.option import options_in
from featurestore.pairs.spec import PairSpec
from featurestore.tensor.spec import FeatureSpec
from trainer.commands.train import VARYING
from trainer.network.network_spec import NetworkSpec
from trainer.network.session.spec import SessionSpec
from trainer.network.training_spec import AugmentSpec, LossSpec, OptimizerSpec

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

WIDTH = 110

HEAD = """# Command line

Made by `make docs` from the commands themselves. `heimdall COMMAND` and `python cli.py COMMAND` are the same. Results go to
stdout (`--json` for machines), progress and errors to stderr. Exit codes: 0 done, 1 failed, 2 usage, 3 data quality, 75 a
service does not answer (try again), 130 interrupted, state saved.

Every option also reads a variable: `--store` of `build-features` is `HEIMDALL_BUILD_FEATURES_STORE`. Where it is not set,
`--raw`, `--store` and `--models` of every command read `HEIMDALL_RAW`, `HEIMDALL_STORE` and `HEIMDALL_MODELS`, which
`services up` prints. PostgreSQL, S3, MLflow and Dask are found through the variables that their users have: `PG*`, `AWS_*`,
`MLFLOW_TRACKING_URI`, `DASK_SCHEDULER_ADDRESS`.
"""


def sections(command: click.Command, context: click.Context, depth: int) -> Iterator[str]:
    """The help of a command, then of those below it."""
    yield f"{'#' * depth} {context.command_path}\n\n```text\n{command.get_help(context)}\n```\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.commands[name]
            yield from sections(below, click.Context(below, parent=context, info_name=name, terminal_width=WIDTH), depth + 1)


def page() -> str:
    """The whole page."""
    context = click.Context(main, info_name="heimdall", terminal_width=WIDTH, help_option_names=["-h", "--help"])
    return HEAD + "\n" + "\n".join(sections(main, context, 2))


def table(kinds: Iterable[type[DataclassInstance]], first: str) -> str:
    """The options of some records, with their defaults and help.

    Args:
        kinds: the records.
        first: `field` or `option`: how the first column names them.
    """
    lines = [f"| {first} | default | effect |", "| --- | --- | --- |"]
    for kind in kinds:
        for field, option in options_in(kind):
            name = field.name if first == "field" else f"--{option.name or field.name.replace('_', '-')}"
            unset = VARYING.get(field.name) or option.unset
            default = unset or ("off" if field.default is False else "none" if field.default == () else f"`{field.default}`")
            lines.append(f"| `{name}` | {default} | {option.text} |")
    return "\n".join(lines)


def with_tables(text: str, tables: Mapping[str, str]) -> str:
    """A page with the tables between its marks, `<!-- table NAME -->` and `<!-- end -->`, made anew."""
    for name, made in tables.items():
        before, mark, rest = text.partition(f"<!-- table {name} -->\n")
        text = f"{before}{mark}{made}\n{rest[rest.index('<!-- end -->') :]}"
    return text


TABLES = {
    "features.md": {"features": table([FeatureSpec], "field")},
    "pairs.md": {"pairs": table([PairSpec], "field")},
    "training.md": {
        "hyperparameters": table([OptimizerSpec, LossSpec, AugmentSpec, NetworkSpec], "option"),
        "sessions": table([SessionSpec], "option"),
    },
}


def pages() -> Iterator[tuple[Path, str]]:
    """Every page that this program writes, and what should be in it."""
    yield DOCS / "cli.md", page()
    for name, tables in TABLES.items():
        yield DOCS / name, with_tables((DOCS / name).read_text(), tables)


if __name__ == "__main__":
    for path, content in pages():
        path.write_text(content)
