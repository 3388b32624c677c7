"""Hyperparameters by name: which a training has, the training with other ones, and the command that trains with them."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from featurestore.errors import UsageError
from featurestore.option import options_in, words_for
from trainer.fitting.request import TrainRequest, usual_request
from trainer.network.session.spec import SessionSpec
from trainer.network.training_spec import PARTS

ALL_PARTS = {**PARTS, "session": SessionSpec}
SEARCHABLE: dict[str, tuple[str, type]] = {"batch_size": ("", int), "seed": ("", int)} | {
    field.name: (part, type(field.default))
    for part, kind in ALL_PARTS.items()
    for field in fields(kind)
    if field.name != "exclude_receivers"  # it says what the data are
}
"""Every name that can be searched: the part of the training it belongs to (none: the request), and its type."""
ALIASES = {option.name: field.name for kind in ALL_PARTS.values() for field, option in options_in(kind) if option.name}
"""Options of `heimdall train` whose names are not those of the fields."""


def with_values(request: TrainRequest, values: Mapping[str, Any]) -> TrainRequest:
    """The request with other hyperparameters; `UsageError` when one is impossible."""
    training = request.training
    for part in ALL_PARTS:
        changed = {name: value for name, value in values.items() if SEARCHABLE[name][0] == part}
        if changed and getattr(training, part) is None:
            raise UsageError(
                f"{', '.join(changed)} is of networks for sessions, and captures are located; use --locate session"
            )
        if changed:
            training = replace(training, **{part: replace(getattr(training, part), **changed)})
    training = replace(training, seed=values.get("seed", training.seed))
    return replace(request, training=training, batch_size=values.get("batch_size", request.batch_size))


def parse_value(name: str, text: str) -> Any:
    """A hyperparameter's value from its text; `UsageError` when it is of another type, or no number."""
    kind = SEARCHABLE[name][1]
    try:
        value = {"true": True, "false": False}[text.lower()] if kind is bool else kind(text)
        if value == "" or (isinstance(value, float) and not math.isfinite(value)):
            raise ValueError
    except (KeyError, ValueError) as error:
        wanted = {bool: "true or false", int: "a whole number", float: "a number"}.get(kind, "a name")
        raise UsageError(f"{text!r} is not {wanted}") from error
    return value


def train_command(request: TrainRequest) -> str:
    """What one would type: the store, the set, and every hyperparameter that is not the default."""
    session = request.training.session
    usual = usual_request(request.store, session)
    words = ["heimdall", "train", "--store", request.store, "--features", request.version]
    words += ["--locate", "capture" if session is None else "session"]
    words += ["--batch-size", str(request.batch_size)] if request.batch_size != usual.batch_size else []
    for part in PARTS:
        words += words_for(getattr(request.training, part), getattr(usual.training, part))
    words += words_for(request.training, usual.training)
    words += [] if session is None else words_for(session, SessionSpec())
    return shlex.join(words)
