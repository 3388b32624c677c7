"""Which places of the environment `predict` does not look at: those that would contradict what was said."""

from __future__ import annotations

from typing import Any

import click
from click.core import ParameterSource


def without_idle_places(options: dict[str, Any]) -> dict[str, Any]:
    """`predict`'s options, but HEIMDALL_STORE beside captures, and HEIMDALL_MODELS beside a model that says where it is."""
    from exporter.release.latest import LATEST
    from exporter.release.release import NUMBER

    idle = {
        "store": bool(options["captures"] or options["sessions"]),
        "models": not (options["model"] == LATEST or NUMBER.fullmatch(options["model"])),
    }
    source = click.get_current_context().get_parameter_source
    return options | {name: None for name in idle if idle[name] and source(name) is ParameterSource.ENVIRONMENT}
