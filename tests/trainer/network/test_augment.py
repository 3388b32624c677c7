"""Augmentation: what it may change, how much of it, and that it is the same again."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from featurestore.errors import UsageError
from trainer.fitting.step import seed_step
from trainer.network.augment import augment
from trainer.network.training_spec import AugmentSpec

CPU = torch.device("cpu")
OFF = AugmentSpec(band_dropout=0, time_dropout=0, max_shift=0, scale=0)


def batch(rows: int = 64) -> Tensor:
    return torch.rand((rows, 3, 16, 12), generator=torch.Generator().manual_seed(0)) + 1  # nothing is zero by itself


def run(spec: AugmentSpec, features: Tensor, seed: int = 0) -> Tensor:
    seed_step(CPU, seed, 0, 0)
    return augment(features, spec)


def test_nothing_to_do_changes_nothing() -> None:
    assert torch.equal(run(OFF, batch()), batch())


def test_the_same_batch_of_the_same_epoch_is_the_same_again_and_no_other() -> None:
    x = batch()

    def at(*place: int) -> Tensor:
        seed_step(CPU, *place)
        return augment(x, AugmentSpec())

    first = at(1, 2, 3)
    assert torch.equal(first, at(1, 2, 3))
    for other in ((0, 2, 3), (1, 0, 3), (1, 2, 0)):
        assert not torch.equal(first, at(*other))
    assert torch.equal(x, batch())  # the original stays


def test_whole_bands_are_dropped_at_the_rate_asked_for() -> None:
    zero = run(AugmentSpec(0.25, 0, 0, 0), batch(500)) == 0
    assert torch.equal(zero, zero[:, :1, :, :1].expand_as(zero))
    assert abs(zero.float().mean().item() - 0.25) < 0.02


def test_whole_frames_are_dropped_at_the_rate_asked_for() -> None:
    zero = run(AugmentSpec(0, 0.1, 0, 0), batch(500)) == 0
    assert torch.equal(zero, zero[:, :1, :1, :].expand_as(zero))
    assert abs(zero.float().mean().item() - 0.1) < 0.02


def test_shifts_move_frames_by_up_to_the_limit_and_let_zeros_in() -> None:
    x = batch(300)
    seen = set()
    for before, after in zip(x, run(AugmentSpec(0, 0, 5, 0), x), strict=True):
        shifts = [s for s in range(-5, 6) if torch.equal(after, shifted(before, s))]
        assert len(shifts) == 1
        seen.add(shifts[0])
    assert seen == set(range(-5, 6))


def shifted(row: Tensor, shift: int) -> Tensor:
    found = torch.zeros_like(row)
    if shift >= 0:
        found[..., shift:] = row[..., : row.shape[-1] - shift]
    else:
        found[..., :shift] = row[..., -shift:]
    return found


def test_scales_are_one_number_per_row_within_the_limits() -> None:
    x = batch(300)
    ratio = run(AugmentSpec(0, 0, 0, 0.05), x) / x
    torch.testing.assert_close(ratio, ratio[:, :1, :1, :1].expand_as(ratio))
    assert 0.95 <= ratio.min() < 0.955
    assert 1.045 < ratio.max() <= 1.05 + 1e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_any_type_comes_out_as_float32_also_under_autocast(dtype: torch.dtype) -> None:
    x = batch().to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        found = run(AugmentSpec(), x)
    assert found.dtype == torch.float32
    assert torch.equal(found, run(AugmentSpec(), x.float()))


@pytest.mark.parametrize("name", ["band_dropout", "time_dropout", "scale", "max_shift"])
def test_impossible_values_are_named(name: str) -> None:
    with pytest.raises(UsageError, match=rf"{name} is -1; expected"):
        AugmentSpec(**{name: -1})
