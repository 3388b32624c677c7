"""The command line: parses options, calls one library function, prints. No logic of its own."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import click

from featurestore.errors import HeimdallError

CONTEXT = {"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "HEIMDALL", "max_content_width": 110}


class Group(click.Group):
    """A group whose commands end with one clear line and the right exit code, never with a traceback, on our errors."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except HeimdallError as error:
            fail(str(error), error.exit_code)
        except KeyboardInterrupt:
            fail("interrupted; run the same command again to go on from here", 130)


def fail(message: str, exit_code: int) -> NoReturn:
    """Print one line on stderr and leave."""
    click.echo(f"error: {message}", err=True)
    sys.exit(exit_code)


def emit(result: Any, as_json: bool, show: Callable[[Any], None]) -> None:
    """Print a result: as one JSON object, or by `show`."""
    if as_json:
        click.echo(json.dumps(result, allow_nan=False))
    else:
        show(result)


@click.group(cls=Group, context_settings=CONTEXT)
@click.version_option(package_name="heimdall-featurestore")
def main() -> None:
    """Feature store and lean trainer for radio source localization."""


# --- services ---

# --- simulate ---

# --- ingest ---

# --- build-features ---

# --- features ---


if __name__ == "__main__":
    main()
