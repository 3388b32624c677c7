"""Sweeps: real studies in SQLite and PostgreSQL, real trainings of a tiny network, real MLflow."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import psycopg
import pytest
from click.testing import CliRunner
from corpus_for_tests import Corpus
from trainings_for_tests import tiny_training

from cli import main
from featurestore.errors import HeimdallError, ServiceUnavailableError, UsageError
from featurestore.progress import Silent
from featurestore.services import Running
from featurestore.tensor.spec import SplitSpec
from trainer import TrackingRequest, TrainRequest, read_checkpoint
from trainer.fitting.hyperparameters import SEARCHABLE, train_command, with_values
from trainer.fitting.interrupt import InterruptedTrainingError
from trainer.network.session.spec import SessionSpec
from trainer.sweep import plan as planning
from trainer.sweep.defaults import GRID, RANGES
from trainer.sweep.plan import is_grid, plan_study
from trainer.sweep.space import parse_space
from trainer.sweep.study import SharedStudy
from trainer.sweep.sweep import SweepRequest, sweep

ROOT = Path(__file__).resolve().parents[3]
ENDLESS, USUAL = "1e30", "0.001"
"""Learning rates: one that leaves no finite loss, and one with which a network learns."""


def asked(tiny: TrainRequest, *searches: str, epochs: int = 1, storage: str = "", **plan: Any) -> SweepRequest:
    """A study called `test`; storage and results are below the test's directory."""
    directory = tiny.directory.parent
    base = replace(tiny, directory=directory / "out", training=tiny_training(epochs))
    made = plan_study("test", base, searches, **plan)
    return SweepRequest(base, made, storage or f"sqlite:///{directory / 'sweep.db'}")


class Notes(Silent):
    """Keeps lines; interrupts this process, as Ctrl-C does, at the first line that contains a text."""

    def __init__(self, interrupt_at: str = "") -> None:
        self.lines: list[str] = []
        self._interrupt_at = interrupt_at

    def say(self, line: str) -> None:
        self.lines.append(line)
        if self._interrupt_at and self._interrupt_at in line:
            self._interrupt_at = ""
            os.kill(os.getpid(), signal.SIGINT)


def test_a_grid_covers_each_combination_once_and_keeps_the_best_network(tiny: TrainRequest) -> None:
    request = asked(replace(tiny, batch_size=1000), "learning_rate=1e-3,1e-4", "batch_size=8,16")
    first = sweep(replace(request, plan=replace(request.plan, trials=3)))
    assert first.counts["complete"] == 3
    report = sweep(request)  # the number of trials may grow
    found = [(trial.parameters["learning_rate"], trial.parameters["batch_size"]) for trial in report.trials]
    assert sorted(found) == [(1e-4, 8), (1e-4, 16), (1e-3, 8), (1e-3, 16)]
    values = [trial.value for trial in report.trials]
    assert values == sorted(values, key=lambda value: value or 0)
    assert report.best is not None
    checkpoint = read_checkpoint(str(report.best.checkpoint))
    assert checkpoint.training == with_values(request.base, report.best.parameters).training
    assert [path.name for path in request.base.directory.iterdir()] == [f"test-trial-{report.best.number:04d}.ckpt"]
    assert sweep(request).trials == report.trials  # nothing is left to do


def test_the_command_draws_from_ranges_and_leaves_a_table_and_a_picture(tiny: TrainRequest, tmp_path: Path) -> None:
    options = ["--study", "ranges", "--store", tiny.store, "--features", "small", "--backbone", "test_convnext2"]
    options += [
        "--epochs",
        "1",
        "--batch-size",
        "8",
        "--accelerator",
        "cpu",
        "--no-tracking",
        "--quiet",
    ]
    options += ["--storage", f"sqlite:///{tmp_path}/s.db", "--out", str(tmp_path / "out"), "--trials", "2"]
    options += [
        "--search",
        "learning-rate=log:1e-4..1e-3",
        "--search",
        "max_shift=0..5",
        "--search",
        "loss=beta-nll,gaussian-nll",
    ]
    done = CliRunner().invoke(main, ["sweep", *options, "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report == json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert (tmp_path / "out" / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert report["counts"]["complete"] == len(report["trials"]) == 2
    for trial in report["trials"]:
        values = trial["parameters"]
        assert 1e-4 <= values["learning_rate"] <= 1e-3
        assert values["max_shift"] in range(6)
        assert values["kind"] in ("beta-nll", "gaussian-nll")
        assert trial["value"] == min(trial["history"].values())
    assert report["trials"][0]["parameters"] != report["trials"][1]["parameters"]
    again = CliRunner().invoke(main, ["sweep", *options])
    assert again.exit_code == 0
    assert "2 complete" in again.stdout
    best = report["best"]["parameters"]
    command = next(line for line in again.stdout.splitlines() if "heimdall train" in line).split()
    assert float(command[command.index("--learning-rate") + 1]) == best["learning_rate"]
    assert ("--loss" in command) == (best["kind"] == "beta-nll")
    assert {word for word in command if word.startswith("--")} <= {
        name for option in main.commands["train"].params for name in option.opts
    }


def test_a_bad_trial_is_ended_early_and_one_without_a_loss_is_no_end_of_the_sweep(
    tiny: TrainRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "STARTUP_TRIALS", 1)
    searches = f"learning_rate={USUAL},0.5,{ENDLESS}"
    request = asked(tiny, searches, epochs=2)
    plans = (replace(request.plan, seed=seed) for seed in range(99))
    plan = next(plan for plan in plans if [each["learning_rate"] for each in plan.combinations()] == [0.001, 0.5, 1e30])
    request = replace(request, plan=plan)
    notes = Notes()
    report = sweep(request, notes)
    good, bad, endless = sorted(report.trials, key=lambda trial: trial.number)
    assert (good.state, good.epochs) == ("complete", 2)
    assert (bad.state, bad.epochs) == ("pruned", 1)
    assert endless.state == "failed"
    assert "steps in a row" in endless.reason
    assert report.best == good
    assert any(line.startswith("trial 1 pruned after epoch 1") for line in notes.lines)


def test_a_study_in_which_every_trial_fails_is_an_error(tiny: TrainRequest) -> None:
    with pytest.raises(HeimdallError, match=r"no trial .* came to an end \(1 failed; the last failure: 5 steps in a row"):
        sweep(asked(tiny, f"learning_rate={ENDLESS}"))


def test_ctrl_c_gives_the_trial_back_and_the_same_command_goes_on(tiny: TrainRequest) -> None:
    request = asked(tiny, f"learning_rate={USUAL}", epochs=2)
    with pytest.raises(InterruptedTrainingError, match=r"trial 0 begins anew when the same command goes on") as caught:
        sweep(request, Notes("trial 0: epoch 1/2"))
    assert caught.value.exit_code == 130
    report = sweep(request)
    assert report.counts == {"complete": 1, "pruned": 0, "failed": 0, "running": 0, "waiting": 0}
    assert [(trial.number, trial.epochs, trial.parameters) for trial in report.trials] == [(1, 2, {"learning_rate": 1e-3})]


DIES_IN_ITS_SECOND_TRIAL = """
import os, pickle, signal, sys
from featurestore.progress import Silent
from trainer.sweep.sweep import sweep

class Last(Silent):
    complete = False
    def say(self, line):
        self.complete |= " complete after " in line
        if self.complete and ": epoch 1/1: " in line:
            os.kill(os.getpid(), signal.SIGKILL)

sweep(pickle.load(sys.stdin.buffer), Last())
"""


def python(code: str, request: SweepRequest) -> subprocess.Popen[bytes]:
    """Another process that is given a request."""
    import pickle

    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(pickle.dumps(request))
    process.stdin.close()
    process.stdin = None
    return process


def test_two_processes_share_a_study_in_postgresql_and_a_killed_one_costs_its_trial_only(
    tiny: TrainRequest, catalog: str, tmp_path: Path
) -> None:
    request = asked(tiny, "learning_rate=1e-3,1e-4", "dropout=0,0.3", storage=catalog)
    tracking = TrackingRequest(f"sqlite:///{tmp_path / 'mlflow.db'}")
    request = replace(request, base=replace(request.base, tracking=tracking))
    other = python(DIES_IN_ITS_SECOND_TRIAL, request)
    shared = SharedStudy(request.storage, request.plan)
    while not shared.trials() and other.poll() is None:
        time.sleep(0.1)

    class WaitsForTheOther(Notes):
        def say(self, line: str) -> None:
            super().say(line)
            if " complete after " in line:  # whichever is faster, the other one is to have its second trial
                other.wait(timeout=600)

    notes = WaitsForTheOther()
    report = sweep(request, notes)
    assert other.wait(timeout=600) == -signal.SIGKILL
    if any(trial.state.name == "RUNNING" for trial in shared.trials()):
        with psycopg.connect(catalog) as connection:  # an hour passes, and the other one counts as lost
            connection.execute("UPDATE optuna.trial_heartbeats SET heartbeat = heartbeat - interval '1 hour'")
        report = sweep(request, notes)
    shared.storage.close()
    assert report.counts == {"complete": 4, "pruned": 0, "failed": 0, "running": 0, "waiting": 0}
    combinations = {tuple(trial.parameters.values()) for trial in report.trials}
    assert len(combinations) == len(report.trials) == 4
    assert sum(" complete after " in line for line in notes.lines) == 3  # all but the other one's first
    numbers = {trial.number for trial in report.trials}
    assert len({0, 1, 2, 3, 4} - numbers) == 1  # the lost one's, which has another number now
    assert [path.suffix for path in request.base.directory.iterdir()] == [".ckpt"]  # nor did the lost one leave anything
    _look_at_runs(tracking.uri, [str(trial.run_id) for trial in report.trials])
    with psycopg.connect(catalog) as connection:
        rows = connection.execute("SELECT DISTINCT table_schema FROM information_schema.tables WHERE table_name = 'studies'")
        assert rows.fetchall() == [("optuna",)]
        tables = connection.execute("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'").fetchall()
        assert tables == [("measurements",)]


def _look_at_runs(uri: str, run_ids: Iterable[str]) -> None:
    """One run for the study, one below it for each trial, and the best one marked."""
    client = mlflow.MlflowClient(uri)
    runs = client.search_runs(["1"])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    below = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(below) == len(runs) - 1
    (lost,) = [run for run in below if run.info.run_id not in run_ids]
    assert "sweep.state" not in lost.data.tags
    below.remove(lost)
    assert {run.info.run_id for run in below} == set(run_ids)
    assert parent.info.status == "FINISHED"
    assert parent.info.run_name == "test"
    assert parent.data.params["search.dropout"] == "dropout=0.0,0.3"
    best = min(below, key=lambda run: run.data.metrics["objective"])
    assert parent.data.tags["sweep.best_run"] == best.info.run_id
    assert parent.data.metrics["best_objective"] == best.data.metrics["objective"] == best.data.metrics["val/loss"]
    assert {run.data.params["network.dropout"] for run in below} == {"0.0", "0.3"}
    assert all(run.info.status == "FINISHED" and run.data.tags["sweep.state"] == "complete" for run in below)


def test_a_study_is_about_one_feature_set_and_one_training(tiny: TrainRequest, training_corpus: Corpus) -> None:
    request = asked(tiny, f"learning_rate={USUAL}")
    latest = replace(request, base=replace(request.base, version="latest"))
    before = sweep(latest).version
    other = training_corpus.build(split=SplitSpec(seed=7), tag="other").version
    assert other != before
    assert sweep(latest).version == before  # also when the latest is another one by now
    with pytest.raises(UsageError, match=rf"'test' was begun with other settings: features is {before} there and {other} here"):
        sweep(replace(request, base=replace(request.base, version="other")))
    optimizer = replace(request.base.training.optimizer, weight_decay=0.5)
    with pytest.raises(UsageError, match=r"optimizer.weight_decay is 0.0001 there and 0.5 here"):
        sweep(replace(request, base=replace(request.base, training=replace(request.base.training, optimizer=optimizer))))
    with pytest.raises(
        UsageError, match=r"search learning_rate is learning_rate=0.001 there and learning_rate=0.001,0.01 here"
    ):
        sweep(asked(tiny, "learning_rate=1e-3,1e-2"))


@pytest.mark.parametrize(
    ("search", "match"),
    [
        ("leaning_rate=1", r"no hyperparameter 'leaning_rate'; there are backbone, .*batch_size, .*weight_decay"),
        ("dropout", r"expected dropout=A,B,C, dropout=LOW..HIGH"),
        ("dropout=0.1,x", r"'x' is not a number"),
        ("dropout=0.1,nan", r"'nan' is not a number"),
        ("dropout=0.1,0.1", r"names a value twice"),
        ("dropout=0..1", r"--search dropout=0.0..1.0: dropout is 1.0, not a probability"),
        ("batch_size=8.5", r"'8.5' is not a whole number"),
        ("freeze_backbone=maybe", r"'maybe' is not true or false"),
        ("backbone=tiny..large", r"backbone is no number and has no range"),
        ("backbone=resnet50", r"--search backbone=resnet50: "),
        ("learning_rate=log:0..1", r"above 0 on a logarithmic scale"),
        ("learning_rate=1..0.1", r"expected LOW below HIGH"),
    ],
)
def test_what_cannot_be_searched_is_named(tiny: TrainRequest, search: str, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        parse_space([search], tiny)


def test_plans_that_do_not_fit_are_named(tiny: TrainRequest) -> None:
    with pytest.raises(UsageError, match=r"a grid has no ranges, and dropout=0.0..0.5 is one"):
        asked(tiny, "dropout=0..0.5", sampler="grid")
    with pytest.raises(UsageError, match=r"names dropout twice"):
        asked(tiny, "dropout=0", "dropout=0.1")
    with pytest.raises(UsageError, match=r"the train split of .* has 48 rows; expected at least a batch, 1000"):
        sweep(asked(tiny, "batch_size=8,1000"))
    with pytest.raises(UsageError, match=r"--study is 'a/b'; expected a name of letters"):
        plan_study("a/b", tiny, [])


@pytest.mark.parametrize(
    ("storage", "error", "match"),
    [
        ("postgresql://me:secret@127.0.0.1:{port}/x", ServiceUnavailableError, r"127.0.0.1:\d+/x does not answer"),
        ("redis://me:secret@h/x", UsageError, r"--storage redis://h/x is not usable; expected sqlite:///FILE"),
        ("sweep.db", UsageError, r"--storage sweep.db is not usable"),
        ("sqlite:////proc/none/s.db", UsageError, r"cannot be kept in sqlite:////proc/none/s.db"),
    ],
)
def test_a_storage_that_cannot_be_used_is_named_without_its_password(
    tiny: TrainRequest, storage: str, error: type[HeimdallError], match: str
) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    with pytest.raises(error, match=match) as caught:
        sweep(asked(tiny, "dropout=0", storage=storage.format(port=port)))
    assert "secret" not in str(caught.value)


def test_what_the_url_leaves_out_pg_variables_say(
    tiny: TrainRequest, services: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in services.environment.items():
        if name.startswith("PG"):
            monkeypatch.setenv(name, value)
    plan = replace(asked(tiny, "dropout=0").plan, name=f"study-{uuid.uuid4().hex}")
    shared = SharedStudy("postgresql://", plan)
    assert shared.trials() == []
    shared.storage.close()


def test_a_wrong_password_is_refused_by_postgresql(tiny: TrainRequest, catalog: str) -> None:
    user, _, rest = catalog.removeprefix("postgresql://").partition("@")
    wrong = f"postgresql://{user.partition(':')[0]}:secret@{rest}"
    with pytest.raises(UsageError, match="password authentication failed") as caught:
        SharedStudy(wrong, asked(tiny, "dropout=0").plan)
    assert "secret" not in str(caught.value)


def test_what_is_searched_by_default_fits_the_network(tiny: TrainRequest) -> None:
    for searches in (GRID, RANGES):
        assert [each.name for each in parse_space(searches, tiny)] == ["learning_rate", "batch_size", "dropout", "weight_decay"]
    assert len(plan_study("grid", tiny, []).combinations()) == 24
    assert not is_grid(plan_study("tpe", tiny, [], "tpe").parameters)


def test_everything_can_be_searched_also_what_sessions_are_made_of(tiny: TrainRequest) -> None:
    sessions = replace(tiny, training=replace(tiny.training, session=SessionSpec()))
    known = {key.rpartition(".")[2] for key in sessions.training.flat()} - {"exclude_receivers"}
    assert known | {"batch_size"} == set(SEARCHABLE)
    (fusion,) = parse_space(["fusion=radio-map,attention"], sessions)
    training = with_values(sessions, {"fusion": fusion.values[1], "dropout": 0.2}).training
    assert training.session == SessionSpec("attention")
    assert training.network.dropout == 0.2
    with pytest.raises(UsageError, match=r"fusion is of networks for sessions, and captures are located; use --locate session"):
        parse_space(["fusion=attention"], tiny)


def test_the_command_that_trains_in_full_makes_the_same_training(tiny: TrainRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    session = SessionSpec("attention", exclude_receivers=(3, 5), grid_km=2.0)
    for training in (tiny.training, replace(tiny.training, session=session, seed=7)):
        asked_for = with_values(replace(tiny, training=training), {"freeze_backbone": True, "kind": "beta-nll"})
        words = train_command(asked_for).split()
        made: list[TrainRequest] = []
        monkeypatch.setattr("trainer.fit", lambda request, _progress, made=made: made.append(request))
        main.main(words[1:], standalone_mode=False)
        assert made[0].training == asked_for.training
        assert (made[0].store, made[0].version, made[0].batch_size) == (tiny.store, tiny.version, tiny.batch_size)
