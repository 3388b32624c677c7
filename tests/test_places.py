"""`--raw`, `--store` and `--models` of every command read what `services up` prints."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from cli import main
from exporter.commands.predict import predict
from exporter.predict import predict as predicting
from exporter.predict.request import PredictRequest
from featurestore.services import Running, foreground

PLACES = ("raw", "store", "models")


def commands(command: click.Command, context: click.Context) -> Iterator[click.Context]:
    yield context
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            yield from commands(below, click.Context(below, parent=context, info_name=name))


def test_every_command_reads_them_and_its_own_variable_counts_more(monkeypatch: pytest.MonkeyPatch) -> None:
    found = 0
    for context in commands(main, click.Context(main, info_name="heimdall", auto_envvar_prefix="HEIMDALL")):
        for option in context.command.params:
            if option.name in PLACES and isinstance(option, click.Option):
                monkeypatch.setenv(f"HEIMDALL_{option.name.upper()}", "s3://for-all")
                assert option.resolve_envvar_value(context) == "s3://for-all", context.command_path
                own = f"{context.auto_envvar_prefix}_{option.name.upper()}"
                monkeypatch.setenv(own, "s3://its-own")
                assert option.resolve_envvar_value(context) == "s3://its-own", own
                monkeypatch.delenv(own)
                found += 1
    assert found > 20


def test_services_up_prints_these(tmp_path: Path) -> None:
    printed = foreground.environment(Running(tmp_path, "", "http://127.0.0.1:1", "", "", {}, ()))
    assert {f"HEIMDALL_{name.upper()}" for name in PLACES} <= set(printed)


@pytest.mark.parametrize(
    ("words", "store", "models"),
    [
        (["latest", "--features", "first"], "s3://s", "s3://m"),
        (["1.2.0", "capture.npy"], None, "s3://m"),
        (["model.onnx", "capture.npy"], None, None),
        (["model.onnx"], "s3://s", None),
        (["model.onnx", "--store", "here"], "here", None),
    ],
)
def test_predict_leaves_out_what_its_arguments_make_idle(
    monkeypatch: pytest.MonkeyPatch, words: list[str], store: str | None, models: str | None
) -> None:
    monkeypatch.setenv("HEIMDALL_STORE", "s3://s")
    monkeypatch.setenv("HEIMDALL_MODELS", "s3://m")
    asked: list[PredictRequest] = []

    class AskedError(Exception):
        """It need not predict."""

    def ask(request: PredictRequest, _progress: object) -> None:
        asked.append(request)
        raise AskedError

    monkeypatch.setattr(predicting, "predict", ask)
    with pytest.raises(AskedError):
        predict.main(words, standalone_mode=False, auto_envvar_prefix="HEIMDALL_PREDICT")
    assert (asked[0].store, asked[0].models) == (store, models)
