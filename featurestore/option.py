"""What the command line and the docs say of a record's field, stated once: where the field is.

`n_mels: int = option(128, "Number of mel bands.", TENSORS)` is a field with a default. `featurestore.commands.record_options`
makes the command's option of it, `docs/cli_page.py` a line of a table. No click here: records are no part of a command line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import Field, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

KEY = "option"
DATA, TENSORS, PAIRS, SPLIT = "Data", "Tensors", "Pairs", "Split"
NETWORK, SESSIONS, OPTIMIZER, AUGMENTATION = "Network", "Sessions", "Optimizer", "Augmentation"
HARDWARE, WORKERS, TRACKING, OUTPUT = "Hardware", "Workers", "Tracking", "Output"
SEARCH, SIMULATION = "Search", "Simulation"
HEADINGS = (
    DATA,
    SEARCH,
    SIMULATION,
    TENSORS,
    PAIRS,
    SPLIT,
    NETWORK,
    SESSIONS,
    OPTIMIZER,
    AUGMENTATION,
    HARDWARE,
    WORKERS,
    TRACKING,
    OUTPUT,
)
"""Under which `--help` shows options, in this order."""


@dataclass(frozen=True)
class Option:
    """How a field is given on a command line.

    Attributes:
        text: what it does, in whole sentences with units, and without the default.
        heading: under which the help shows it.
        name: after the two dashes; "": the field's.
        key: among the command's arguments, and in the name of its variable; "": the field's.
        choices: the only values; empty where there are others.
        unset: what happens when it is not given, where the field's default does not say it.
        metavar: what the help shows for a value; "": its type.
        envvar: a variable that other programs read, too.
        path: what a path must be.
        parse: turns a text into the field's value.
    """

    text: str
    heading: str
    name: str = ""
    key: str = ""
    choices: tuple[str, ...] = ()
    unset: str = ""
    metavar: str = ""
    envvar: str = ""
    path: Literal["", "file", "directory"] = ""
    parse: Callable[[str], Any] | None = None


def option(default: Any, text: str, heading: str, *, show: bool = True, **more: Any) -> Any:
    """A field of a record that is an option of commands, too.

    Args:
        default: of the field.
        text: see `Option`.
        heading: see `Option`.
        show: the record's `repr` shows the value; not where it may hold a password.
        **more: the rest of an `Option`.
    """
    return field(default=default, repr=show, metadata={KEY: Option(text, heading, **more)})


def options_in(kind: type[DataclassInstance]) -> Iterator[tuple[Field[Any], Option]]:
    """The fields of a record that are options, in their order."""
    return ((each, each.metadata[KEY]) for each in fields(kind) if KEY in each.metadata)


def words_for(record: DataclassInstance, usual: DataclassInstance) -> Iterator[str]:
    """The words of a command line that make `record` where the command's defaults make `usual`, of the same kind."""
    for each, how in options_in(type(record)):
        value = getattr(record, each.name)
        if value != getattr(usual, each.name) and value is not None:
            name = f"--{how.name or each.name.replace('_', '-')}"
            for one in value if isinstance(value, tuple) else (value,):
                yield from (name,) if one is True else (name, str(one))
