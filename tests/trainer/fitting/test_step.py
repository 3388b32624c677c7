"""A training step: it never waits for the device, clips and skips there, and says later which rows were to blame."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from trainings_for_tests import tiny_training

from featurestore.errors import HeimdallError
from featurestore.progress import Silent
from trainer import TrainRequest, fit
from trainer.fitting.callbacks import STEP_HOOKS, leave_out_idle_hooks
from trainer.fitting.compiled import Compiled
from trainer.fitting.engine import callbacks, lightning
from trainer.fitting.guard import adamw, clip_or_skip
from trainer.fitting.request import Hardware
from trainer.fitting.step_log import LOOK_EVERY, MAX_BAD_STEPS, StepLog, StepSums
from trainer.network.network_spec import NetworkSpec
from trainer.network.training_spec import OptimizerSpec

WAITING_TAGS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
"""Operators whose result, or its shape, is a number that the host must have: `item`, `nonzero`, `index` by a mask, `equal`."""


class Waits(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes what makes the host wait for the device."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen = 0
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen += 1
        result = func(*args, **(kwargs or {}))
        there = any(isinstance(each, Tensor) and each.is_cuda for each in args)
        to_host = there and isinstance(result, Tensor) and result.is_cpu
        if WAITING_TAGS.intersection(func.tags) or to_host:
            self.found.append(str(func))
        return result


class TraceEpoch(callbacks.Callback):
    """Traces from the first step of an epoch to the last one, deliveries of batches included."""

    def __init__(self) -> None:
        self.waits = Waits()
        self.steps = 0

    def on_train_batch_start(self, trainer: lightning.Trainer, *rest: Any) -> None:
        if rest[-1] == 0:
            self.waits.__enter__()  # type: ignore[no-untyped-call]

    def on_train_batch_end(self, trainer: lightning.Trainer, *rest: Any) -> None:
        self.steps += 1
        if rest[-1] + 1 == trainer.num_training_batches:
            self.waits.__exit__(None, None, None)  # type: ignore[no-untyped-call]


def test_no_step_and_no_delivery_makes_the_host_wait_for_the_device(tiny: TrainRequest) -> None:
    trace = TraceEpoch()
    fit(replace(tiny, hardware=Hardware()), watchers=[trace])
    assert trace.steps == 12
    assert trace.waits.seen > 12 * 100
    assert trace.waits.found == []


def test_the_trace_sees_what_waits() -> None:
    x = torch.arange(3.0)
    with Waits() as waits:
        x.sum().item()
        x.nonzero()
        x[x > 1]
    assert waits.found[:2] == ["aten._local_scalar_dense.default", "aten.nonzero.default"]
    assert len(waits.found) == 3


def layer(*gradients: float) -> nn.Linear:
    """A layer whose weight has gradients of this length, and whose bias has none."""
    made = nn.Linear(len(gradients), 1)
    made.weight.data = torch.linspace(0.1, 0.7, len(gradients))[None]
    made.weight.grad = torch.tensor([gradients])
    made.bias.grad = torch.zeros(1)
    return made


SPEC = OptimizerSpec(learning_rate=0.01, weight_decay=0.1)


@pytest.mark.parametrize("gradients", [(3.0, 4.0), (0.3, 0.4), (0.0, 0.0), (3e18, 4e18)])
@pytest.mark.parametrize("scaled", [False, True])
def test_a_step_is_that_of_adamw_behind_torchs_own_clipping(gradients: tuple[float, ...], scaled: bool) -> None:
    ours, theirs = layer(*gradients), layer(*gradients)
    reference = torch.optim.AdamW([{"params": [theirs.weight], "weight_decay": 0.1}], lr=0.01, foreach=False)
    optimizer = adamw(list(ours.parameters()), SPEC, scaled=scaled)
    assert bool(optimizer.defaults["fused"]) != scaled
    for _ in range(3):
        ours.weight.grad, theirs.weight.grad = torch.tensor([gradients]), torch.tensor([gradients])
        norm = clip_or_skip(optimizer)
        assert float(norm) == pytest.approx(math.hypot(*gradients))
        optimizer.step()
        nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        reference.step()
        torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("scaled", [False, True])
def test_a_step_without_finite_gradients_changes_nothing(bad: float, scaled: bool) -> None:
    net = layer(3.0, 4.0)
    optimizer = adamw(list(net.parameters()), SPEC, scaled=scaled)
    clip_or_skip(optimizer)
    optimizer.step()
    weight = net.weight.detach().clone()
    state = {name: value.clone() for name, value in optimizer.state[net.weight].items()}
    net.weight.grad, net.bias.grad = torch.tensor([[1.0, bad]]), torch.ones(1)
    assert not clip_or_skip(optimizer).isfinite()
    optimizer.step()
    assert torch.equal(net.weight, weight)
    assert all(torch.equal(value, optimizer.state[net.weight][name]) for name, value in state.items())


def test_a_run_goes_on_whose_optimizer_was_saved_before_it_was_fused(tiny: TrainRequest) -> None:
    fit(replace(tiny, training=tiny_training(1)))
    checkpoint = torch.load(tiny.last, weights_only=True)
    for group in checkpoint["optimizer_states"][0]["param_groups"]:
        assert group["fused"]
        group["fused"] = None
    torch.save(checkpoint, tiny.last)
    report = fit(replace(tiny, resume="last"))
    assert report is not None
    assert report.epochs == 2


def steps(log: StepLog, finite: list[bool], looks: set[int] = frozenset()) -> None:  # type: ignore[assignment]
    for number, good in enumerate(finite):
        losses = torch.tensor([0.1, 0.2 if good else torch.nan]) * (number + 1)
        log.add_losses(torch.tensor([2 * number, 2 * number + 1]), losses)
        log.add_norm(torch.tensor(0.3 * number if good else torch.nan))
        if number in looks:
            log.look()


@given(st.lists(st.sampled_from([True, True, False]), max_size=100), st.sets(st.integers(0, 99)))
def test_means_do_not_depend_on_when_one_looks_and_five_bad_steps_in_a_row_end_it(finite: list[bool], looks: set[int]) -> None:
    text = "".join("x" if not good else "." for good in finite)
    results: list[StepSums | str] = []
    for chosen in (set(), looks):
        log = StepLog("v")
        try:
            steps(log, finite, chosen)
            results.append(log.sums())
        except HeimdallError as error:
            results.append(str(error))
    assert results[0] == results[1]
    if "x" * MAX_BAD_STEPS in text:
        fifth = text.index("x" * MAX_BAD_STEPS) + MAX_BAD_STEPS - 1
        assert f"5 steps in a row had to be skipped, the last one with no finite loss for rows {2 * fifth + 1} of" in str(
            results[0]
        )
    else:
        assert isinstance(results[0], StepSums)
        assert (results[0].steps, results[0].rows) == (text.count("."), len(text) + text.count("."))


def test_a_bad_step_is_named_when_it_is_looked_at_and_an_overflow_of_the_scaler_is_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log = StepLog("v")
    steps(log, [True, False])
    assert capsys.readouterr().err == ""
    steps(log, [True] * (2 * LOOK_EVERY))
    assert capsys.readouterr().err == "warning: no finite loss for rows 3 of feature set v; the step is skipped\n"
    for scaled, said in ((False, "no finite gradient for a batch with row 7"), (True, "")):
        log = StepLog("v", scaled=scaled)
        log.add_losses(torch.tensor([7, 8]), torch.ones(2))
        log.add_norm(torch.tensor(torch.inf))
        log.sums()
        assert said in capsys.readouterr().err


def test_hooks_that_do_nothing_are_left_out_and_others_stay() -> None:
    class Counts(callbacks.Callback):
        def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
            """Something."""

    watcher, saving = Counts(), callbacks.ModelCheckpoint()
    leave_out_idle_hooks([watcher, saving])
    assert [name for name in STEP_HOOKS if callable(getattr(watcher, name))] == ["on_after_backward"]
    assert not any(callable(getattr(saving, name)) for name in STEP_HOOKS)
    assert callable(saving.on_train_epoch_end)


torch_warns = pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")
"""By torch itself, which uses it where it compiles."""


class OneLayer(nn.Module):
    """Compiles in seconds, and draws random numbers."""

    def __init__(self, spec: NetworkSpec, *, pretrained: bool = False) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(functional.dropout(x, 0.1, self.training).mean((2, 3)))
        return torch.cat([y[:, :2], y[:, 2:].sigmoid() + 0.1], dim=1)


class Said(Silent):
    """Keeps what the user is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def of_compilation(self) -> list[str]:
        return [line for line in self.lines if "compile" in line]


class StopInSecondEpochError(Exception):
    """A run that is interrupted."""


class StopInSecondEpoch(callbacks.Callback):
    """Saves behind a step, and stops."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_train_batch_end(self, trainer: lightning.Trainer, *rest: Any) -> None:
        if (trainer.current_epoch, rest[-1]) == (1, 2):
            trainer.save_checkpoint(self._path)
            raise StopInSecondEpochError


@torch_warns
def test_a_compiled_step_is_tried_before_the_first_one_and_goes_on_exactly_where_it_was_interrupted(
    tiny: TrainRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.fitting.module.LocalizationNet", OneLayer)
    compiled = replace(tiny, hardware=replace(tiny.hardware, compile=True))
    said = Said()
    fit(compiled, said)
    (line,) = said.of_compilation()
    assert line.startswith("the step is compiled, in ")

    resumed = replace(compiled, directory=tiny.directory.parent / "resumed")
    with pytest.raises(StopInSecondEpochError):
        fit(resumed, watchers=[StopInSecondEpoch(resumed.last)])
    fit(replace(resumed, resume="last"))
    assert same_weights(compiled.last, resumed.last)


def same_weights(one: Path, other: Path) -> bool:
    first, second = (torch.load(path, weights_only=True)["state_dict"] for path in (one, other))
    return all(torch.equal(tensor, second[name]) for name, tensor in first.items())


@torch_warns
def test_a_backward_pass_that_cannot_be_compiled_is_found_before_the_first_step(
    tiny: TrainRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights are those of a run that was not to be compiled: what was tried has left no trace."""
    monkeypatch.setattr("trainer.fitting.module.LocalizationNet", OneLayer)

    def no_backward(*_: Any, **__: Any) -> Any:
        raise OSError("g++ was killed\nCommand: g++ …")

    said, plain = Said(), replace(tiny, directory=tiny.directory.parent / "plain")
    torch.compiler.reset()
    with monkeypatch.context() as patch, torch._functorch.config.patch(enable_autograd_cache=False):
        patch.setattr("torch._inductor.compile_fx.compile_fx_backward", no_backward)
        fit(replace(tiny, hardware=replace(tiny.hardware, compile=True)), said)
    (line,) = said.of_compilation()
    assert line.startswith("warning: --compile does not work here (")
    assert "g++ was killed" in line
    assert line.endswith("); training goes on without it")
    fit(plain)
    assert same_weights(tiny.last, plain.last)


@torch_warns
def test_a_compiler_that_goes_missing_between_forward_and_backward_pass_is_found_in_the_rehearsal() -> None:
    import torch._inductor.config as inductor

    said: list[str] = []
    wave = Compiled(lambda x: (x.sin() * x.exp()).sum(), said.append)
    x = torch.linspace(0.1, 0.9, 37, requires_grad=True)

    def step(function: Callable[[Tensor], Tensor]) -> None:
        y = function(x)
        with inductor.patch({"cpp.cxx": ("/no/compiler",)}):
            torch.autograd.grad(y, x)

    wave.rehearse(step)
    (line,) = said
    assert line.startswith("warning: --compile does not work here (")
    wave(x).backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, (x.exp() * (x.sin() + x.cos())).detach())


@torch_warns
def test_what_cannot_be_compiled_runs_as_it_is_and_the_user_is_told() -> None:
    import torch._inductor.config as inductor

    said: list[str] = []
    double = Compiled(lambda x: 2 * x + 1, said.append)
    with inductor.patch({"cpp.cxx": ("/no/compiler",)}):
        for value in (1.0, 2.0):
            assert double(torch.tensor([value])).tolist() == [2 * value + 1]
    (line,) = said
    assert line.startswith("warning: --compile does not work here (")
    assert line.endswith("); training goes on without it")


def test_a_profile_says_where_a_step_goes(tiny: TrainRequest) -> None:
    said = Said()
    fit(replace(tiny, profile=True), said)
    table = (tiny.directory / "profile" / "table.txt").read_text()
    phases = dict(re.findall(r"^  (\w+) +([\d.]+) +[\d.]+%$", table, re.MULTILINE))
    assert list(phases) == ["data", "loop", "forward", "backward", "optimizer", "whole", "host"]
    assert float(phases["whole"]) > float(phases["backward"]) > 0
    assert "aten::convolution_backward" in (tiny.directory / "profile" / "trace.json").read_text()
    assert any(line.startswith("where a step goes (median of ") for line in said.lines)
