"""The temperature of posteriors: found again where it is known, and left alone where chance would decide."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trainer.network.session.temperature import LEAST_SESSIONS, TEMPERATURES, best_temperature, nats_by_temperature

CELLS = np.arange(-60, 61) / 5.0  # in standard deviations that the posteriors claim


@pytest.mark.parametrize("true", [0.9, 1.0, 1.25])
def test_a_gaussian_that_claims_another_variance_is_found_out(true: float) -> None:
    """N(0, 1) to the power 1/T is N(0, T): where truths have the variance T, that is the best temperature."""
    drawn = np.random.default_rng(1).normal(scale=np.sqrt(true), size=20_000)
    truth = torch.from_numpy(np.abs(CELLS[None] - drawn[:, None]).argmin(axis=1))
    log_density = torch.from_numpy(-0.5 * CELLS**2).expand(len(truth), -1)
    found = best_temperature(nats_by_temperature(log_density, truth).numpy())
    assert found == pytest.approx(true, abs=0.03)  # its error is T·√(2/n) = 0.01, and a parabola is no likelihood


def test_nats_are_those_of_normalized_densities() -> None:
    log_density = torch.randn(3, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    truth = torch.tensor([0, 7, 39])
    nats = nats_by_temperature(log_density, truth)
    for column, temperature in enumerate(TEMPERATURES):
        expected = -torch.log_softmax(log_density / temperature, dim=1)[torch.arange(3), truth]
        torch.testing.assert_close(nats[:, column], expected)


def test_few_sessions_leave_it_alone_and_the_ends_are_bounds() -> None:
    falling = np.tile(np.linspace(2, 1, len(TEMPERATURES)), (LEAST_SESSIONS, 1))
    assert best_temperature(falling[1:]) == 1.0
    assert best_temperature(falling) == TEMPERATURES[-1]
    assert best_temperature(falling[:, ::-1]) == TEMPERATURES[0]
