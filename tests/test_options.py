"""Options are made from records' fields: with their defaults and in whole sentences, and back into the same records."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest

from cli import main
from featurestore.commands.record_options import options_of, record_of
from featurestore.commands.shell import Option, Sections
from featurestore.corpus.simulate.simulation_spec import SimulationSpec
from featurestore.option import HEADINGS, options_in, words_for
from featurestore.pairs.spec import PairSpec
from featurestore.tensor.spec import FeatureSpec, SplitSpec
from trainer.fitting.request import Hardware, TrackingRequest, TrainRequest
from trainer.network.network_spec import NetworkSpec
from trainer.network.session.spec import SessionSpec
from trainer.network.training_spec import AugmentSpec, LossSpec, OptimizerSpec
from trainer.stream.options import StreamOptions

RECORDS = [
    FeatureSpec(),
    SplitSpec(),
    PairSpec(),
    SimulationSpec(),
    StreamOptions(),
    NetworkSpec(),
    SessionSpec(),
    OptimizerSpec(),
    LossSpec(),
    AugmentSpec(),
    Hardware(),
    TrackingRequest(),
    TrainRequest("here"),
]
OTHERS = [
    replace(FeatureSpec(), n_fft=1024, window="boxcar", f_max_hz=5000.0, n_mfcc=20, align="session"),
    replace(SplitSpec(), val_fraction=0.2, seed=7, by="region", region_degrees=0.5),
    replace(SimulationSpec(), duration_s=0.5, clock="gps", second_path=True, min_snr_db=-3.0),
    replace(NetworkSpec(), backbone="tiny", freeze_backbone=True),
    replace(SessionSpec(), fusion="attention", grid_km=2.5, exclude_receivers=(3, 5)),
    replace(LossSpec(), kind="beta-nll", beta=0.25),
    replace(TrainRequest("here"), directory=Path("elsewhere"), batch_size=8, resume="last", profile=True),
]


def parsed(record: Any, words: list[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """What a command makes of words: the record, where it has the record's options and no others."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    made: list[Any] = []
    more = {"store": record.store} if isinstance(record, TrainRequest) else {}

    @click.command(cls=Sections)
    @options_of(type(record))
    def command(**options: Any) -> None:
        made.append(record_of(type(record), options, **more))
        assert not options

    command.main(words, standalone_mode=False)
    return made[0]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_defaults_are_those_of_the_record(record: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert parsed(record, [], monkeypatch) == record


@pytest.mark.parametrize("record", OTHERS, ids=lambda record: type(record).__name__)
def test_words_make_the_record_that_they_were_made_of(record: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = TrainRequest(record.store) if isinstance(record, TrainRequest) else type(record)()
    words = list(words_for(record, usual))
    assert words
    assert parsed(record, words, monkeypatch) == record


def test_a_fold_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parsed(SplitSpec(), ["--fold", "2/5"], monkeypatch) == SplitSpec(fold=(2, 5))


def test_values_that_are_not_given_are_those_of_the_base() -> None:
    base = OptimizerSpec(learning_rate=0.5, max_epochs=3)
    options = dict.fromkeys((field.name for field, _ in options_in(OptimizerSpec)), None) | {"weight_decay": 0.0, "other": 1}
    assert record_of(OptimizerSpec, options, base) == replace(base, weight_decay=0.0)
    assert options == {"other": 1}


@pytest.mark.parametrize(
    "command", [each for each in main.commands.values() if isinstance(each, Sections)], ids=lambda command: str(command.name)
)
def test_help_has_headings_and_whole_sentences(command: click.Command) -> None:
    for option in command.params:
        if isinstance(option, click.Option):
            assert isinstance(option, Option), option.name
            assert option.heading in HEADINGS
            text = (option.help or "").partition("  [")[0]
            assert text[0].isupper(), text
            assert text.endswith((".", "...")), text
