"""Options made from the fields of records, and records made from the options: see `featurestore.option`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import Field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from featurestore.commands.shell import Option as GroupedOption
from featurestore.option import Option, options_in

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Record = TypeVar("Record", bound="DataclassInstance")

TYPES: dict[str, Any] = {"int": int, "float": float, "str": str}
PATHS = {
    "file": click.Path(exists=True, dir_okay=False, path_type=Path),
    "directory": click.Path(file_okay=False, path_type=Path),
}


def options_of(*kinds: type[DataclassInstance], unset: Mapping[str, str] | None = None) -> Callable[[Any], Any]:
    """A decorator: the options of some records, in the order of their fields, with the records' defaults.

    Args:
        *kinds: the records.
        unset: field → what happens when it is not given, where the command and not the record decides that.
    """

    def add(command: Any) -> Any:
        for kind in reversed(kinds):
            for field, option in reversed(list(options_in(kind))):
                command = _click_option(field, option, (unset or {}).get(field.name, option.unset))(command)
        return command

    return add


def record_of(kind: type[Record], options: dict[str, Any], base: Record | None = None, **more: Any) -> Record:
    """Make a record of a command's options, and take them away from the others.

    Args:
        kind: the record.
        options: of the command; those of the record are removed.
        base: has the values of what is not given; `None`: the record's defaults.
        **more: fields that are no options.
    """
    values = dict(more)
    for field, option in options_in(kind):
        value = options.pop(option.key or field.name, None)
        if value is not None:
            values[field.name] = value if option.parse is None else option.parse(value)
    return kind(**values) if base is None else replace(base, **values)


def _click_option(field: Field[Any], option: Option, unset: str) -> Callable[[Any], Any]:
    kind = str(field.type).removesuffix(" | None")
    settings: dict[str, Any] = {"heading": option.heading, "help": option.text}
    if option.choices:
        settings["type"] = click.Choice(option.choices)
    elif kind == "bool":
        settings["is_flag"] = True
    elif field.default == ():
        settings |= {"multiple": True, "type": TYPES[kind.removeprefix("tuple[").partition(",")[0]]}
    else:
        settings["type"] = PATHS.get(option.path) or TYPES.get(kind, str)
    if unset:
        settings["help"] += f"  [default: {unset}]"
    elif kind != "bool" and field.default not in (None, ()):
        settings |= {"default": TYPES[kind](field.default) if kind in TYPES else field.default, "show_default": True}
    settings |= {name: value for name in ("metavar", "envvar") if (value := getattr(option, name))}
    name = option.name or field.name.replace("_", "-")
    return click.option(f"--{name}", option.key or field.name, cls=GroupedOption, **settings)
