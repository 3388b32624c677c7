"""The loss against torch.distributions, its gradients against the paper and finite differences; bounds and gradient of σ."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.errors import UsageError
from trainer.network.loss import HELD_SIGMA, MAX_SIGMA, MIN_SIGMA, bounded_sigma, localization_loss
from trainer.network.training_spec import LossSpec

unhurried = settings(deadline=None, max_examples=50)  # the first call of a torch operator can take seconds
GAUSSIAN, BETA = LossSpec("gaussian-nll"), LossSpec("beta-nll")


def gradient(function: Callable[[torch.Tensor], torch.Tensor], values: torch.Tensor) -> torch.Tensor:
    """Of the sum of what the function returns, with respect to its argument."""
    leaf = values.clone().requires_grad_()
    (found,) = torch.autograd.grad(function(leaf).sum(), leaf)
    return found


def batch(rows: int = 7, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(rows, 2, generator=generator)
    sigma = MIN_SIGMA + (MAX_SIGMA - MIN_SIGMA) * torch.rand(rows, 2, generator=generator)
    return torch.cat([mean, sigma], dim=1), torch.randn(rows, 2, generator=generator)


@unhurried
@given(st.integers(1, 20), st.integers(0, 1000))
def test_gaussian_nll_is_that_of_torch_distributions(rows: int, seed: int) -> None:
    outputs, targets = batch(rows, seed)
    loss = localization_loss(outputs, targets, GAUSSIAN)
    likelihood = torch.distributions.Normal(outputs[:, :2], outputs[:, 2:]).log_prob(targets)  # type: ignore[no-untyped-call]  # torch's
    expected = -likelihood.sum(dim=1)
    torch.testing.assert_close(loss.per_row, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(loss.mean, expected.mean(), rtol=1e-5, atol=1e-5)


@unhurried
@given(st.floats(0, 1), st.integers(0, 1000))
def test_beta_scales_the_gradients_and_nothing_else(beta: float, seed: int) -> None:
    """Seitzer et al., eq. 5 and 6: both gradients are the likelihood's times σ^(2β), axis by axis."""
    outputs, targets = batch(seed=seed)
    plain = gradient(lambda values: localization_loss(values, targets, GAUSSIAN).per_row, outputs)
    scaled = gradient(lambda values: localization_loss(values, targets, LossSpec("beta-nll", beta)).per_row, outputs)
    weight = outputs[:, 2:].pow(2 * beta).repeat(1, 2)
    torch.testing.assert_close(scaled, plain * weight, rtol=1e-4, atol=1e-5)


def test_beta_zero_is_the_likelihood_and_beta_one_the_squared_error() -> None:
    outputs, targets = batch()
    plain = localization_loss(outputs, targets, GAUSSIAN)
    torch.testing.assert_close(localization_loss(outputs, targets, LossSpec("beta-nll", 0.0)).per_row, plain.per_row)
    found = gradient(lambda values: localization_loss(values, targets, LossSpec("beta-nll", 1.0)).per_row, outputs)
    torch.testing.assert_close(found[:, :2], outputs[:, :2] - targets, rtol=1e-5, atol=1e-6)


def test_gradients_agree_with_finite_differences() -> None:
    """From the raw outputs of the heads to the loss, in float64."""
    outputs, targets = (part.double() for part in batch(3))

    def per_row(raw: torch.Tensor) -> torch.Tensor:
        return localization_loss(torch.cat([raw[:, :2], bounded_sigma(raw[:, 2:])], dim=1), targets, GAUSSIAN).per_row

    assert torch.autograd.gradcheck(per_row, (outputs.requires_grad_(),))


def test_likelihood_is_least_at_the_true_residual() -> None:
    """For one residual r, ½(r/σ)² + ln σ has its minimum at σ = |r|."""
    residual = 0.3
    sigma = torch.linspace(0.05, 1, 96)
    outputs = torch.stack([torch.zeros(96), torch.zeros(96), sigma, sigma], dim=1)
    loss = localization_loss(outputs, torch.full((96, 2), residual), GAUSSIAN)
    assert sigma[loss.per_row.argmin()] == pytest.approx(residual, abs=0.006)


@pytest.mark.parametrize("spec", [GAUSSIAN, BETA])
def test_held_sigma_is_a_constant_of_zero_gradient(spec: LossSpec) -> None:
    outputs, targets = batch()
    loss = localization_loss(outputs, targets, spec, hold_sigma=True)
    held = torch.cat([outputs[:, :2], torch.full((7, 2), HELD_SIGMA)], dim=1)
    torch.testing.assert_close(loss.per_row, localization_loss(held, targets, GAUSSIAN).per_row)
    found = gradient(lambda values: localization_loss(values, targets, spec, hold_sigma=True).per_row, outputs)
    assert not found[:, 2:].any()
    torch.testing.assert_close(found[:, :2], (outputs[:, :2] - targets) / HELD_SIGMA**2)


@pytest.mark.parametrize("spec", [GAUSSIAN, BETA])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_loss_is_float32_under_autocast(spec: LossSpec, dtype: torch.dtype) -> None:
    outputs, targets = batch()
    with torch.autocast("cpu", dtype=dtype):
        loss = localization_loss(outputs.to(dtype), targets.double(), spec)
    assert loss.per_row.dtype == loss.mean.dtype == torch.float32
    assert torch.equal(loss.per_row, localization_loss(outputs.to(dtype).float(), targets, spec).per_row)


@pytest.mark.parametrize(("outputs", "targets"), [((3, 4), (3, 1)), ((3, 4), (1, 2)), ((3, 2), (3, 2)), ((4,), (1, 2))])
def test_shapes_that_would_broadcast_are_refused(outputs: tuple[int, ...], targets: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"must be \(B, 4\) and \(B, 2\)"):
        localization_loss(torch.ones(outputs), torch.ones(targets), GAUSSIAN)


@unhurried
@given(st.floats(-1e6, 1e6, width=32))
def test_sigma_is_bounded_with_a_gradient_everywhere(value: float) -> None:
    raw = torch.tensor([value])
    assert MIN_SIGMA * (1 - 1e-6) <= bounded_sigma(raw).item() <= MAX_SIGMA * (1 + 1e-6)
    assert gradient(bounded_sigma, raw).item() > 0


@unhurried
@given(st.floats(-1000, 1000), st.floats(1e-3, 1000))
def test_sigma_grows_with_its_raw_value(value: float, step: float) -> None:
    low, high = bounded_sigma(torch.tensor([value, value + step]))
    assert low <= high


def test_sigma_known_values() -> None:
    assert bounded_sigma(torch.tensor(0.0)).item() == pytest.approx(math.sqrt(MIN_SIGMA * MAX_SIGMA))
    limits = bounded_sigma(torch.tensor([-torch.inf, torch.inf]))
    torch.testing.assert_close(limits, torch.tensor([MIN_SIGMA, MAX_SIGMA]))
    half = bounded_sigma(torch.ones(2, dtype=torch.bfloat16))
    assert half.dtype == torch.float32
    assert half[0].item() == pytest.approx(MIN_SIGMA**0.25)  # atan 1 = π/4: three quarters of the way


def test_sigma_has_the_gradient_of_its_closed_form() -> None:
    raw = torch.linspace(-5, 5, 11)
    expected = bounded_sigma(raw) * math.log(MAX_SIGMA / MIN_SIGMA) / (math.pi * (1 + raw.square()))
    torch.testing.assert_close(gradient(bounded_sigma, raw), expected, rtol=1e-5, atol=1e-7)


def test_rows_without_a_finite_loss_do_not_spoil_those_of_others() -> None:
    outputs, targets = batch(4)
    outputs[1, 0] = torch.nan
    targets[2, 1] = torch.inf
    loss = localization_loss(outputs.requires_grad_(), targets, GAUSSIAN)
    assert loss.per_row.isfinite().tolist() == [True, False, False, True]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "mse"}, "loss 'mse' is not known; use one of gaussian-nll, beta-nll"),
        ({"beta": 1.5}, "beta is 1.5"),
        ({"beta": math.nan}, "beta is nan"),
        ({"mean_warmup_epochs": -1}, "mean_warmup_epochs is -1"),
        ({"mean_warmup_epochs": 1.5}, "mean_warmup_epochs is 1.5"),
        ({"mean_warmup_epochs": True}, "mean_warmup_epochs is True"),
    ],
)
def test_impossible_specs_are_refused(values: dict[str, str | float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        LossSpec(**values)  # type: ignore[arg-type]  # wrong types are the point


def test_sigma_is_held_in_the_first_epochs_only() -> None:
    assert [LossSpec(mean_warmup_epochs=2).holds_sigma(epoch) for epoch in range(4)] == [True, True, False, False]
    assert not LossSpec().holds_sigma(0)
