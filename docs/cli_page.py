"""Writes docs/cli.md: the help of every command, as it is printed.

python docs/cli_page.py
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent))

from cli import main  # noqa: E402 - found by the line above

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


if __name__ == "__main__":
    (DOCS / "cli.md").write_text(page())
