"""Networks for sessions: masks, permutations, closed forms. Their graphs: `tests/exporter/graph/test_session_graph.py`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from featurestore.place import density as numpy_density
from trainer.network.geometry import Region
from trainer.network.network_spec import NetworkSpec
from trainer.network.session.density import Mixture, locate
from trainer.network.session.nets import RadioMapNet, SessionNet, make_session_net
from trainer.network.session.place import SessionPlace
from trainer.network.session.radio_map import RadioMap
from trainer.network.session.spec import SessionSpec

N_BANDS, N_FRAMES = 16, 8
STANDS = np.array([[45.03, 7.27], [45.478, 9.123], [44.395, 8.956]])
Batch = tuple[Tensor, Tensor, Tensor, Tensor]


def place() -> SessionPlace:
    corners = np.array([[44.4, 7.1], [45.5, 9.3]])
    return SessionPlace.around(Region.around(corners), corners, [1, 2, 3], STANDS, 10.0)


def network(fusion: str, receivers_by: str = "both") -> SessionNet:
    torch.manual_seed(0)
    where = place()
    net = make_session_net(SessionSpec(fusion, receivers_by=receivers_by), NetworkSpec("test_convnext2"), where, N_BANDS)
    if isinstance(net, RadioMapNet):
        rng, shape = np.random.default_rng(0), (3, len(where.grid.points_m))
        found = RadioMap(
            mean=rng.normal(10, 6, shape),
            variance=rng.uniform(2, 20, shape),
            noise=np.array([4.0, 5.0, 6.0]),
            power=4.0,
            law=np.array([40.0, -32.0]),
            law_covariance=np.diag([25.0, 9.0]),
            law_variance=36.0,
            law_noise=5.0,
            table=np.ones((3, 4)),
            left_out=np.empty((0, 3)),
        )
        net.set_map(found, np.full(shape[1], -3.0), 1.0)
    return net.eval()


def sessions(b: int, r: int, seed: int = 0) -> Batch:
    """Features, receivers (the fourth is unknown to training), their positions, presence (at least one)."""
    torch.manual_seed(seed)
    receiver = torch.arange(1, r + 1).repeat(b, 1)
    stands = torch.from_numpy(np.resize(np.concatenate([STANDS, [[44.9, 8.2]]]), (r, 2)).astype(np.float32)).repeat(b, 1, 1)
    present = torch.rand(b, r) < 0.7
    present[:, 0] = True
    return torch.randn(b, r, 3, N_BANDS, N_FRAMES), receiver, stands, present


@pytest.mark.parametrize("fusion", ["radio-map", "attention"])
def test_order_of_receivers_changes_nothing(fusion: str) -> None:
    net, batch = network(fusion), sessions(5, 4)
    order = torch.tensor([2, 0, 3, 1])
    found, turned = net(*batch), net(*(part[:, order] for part in batch))
    for one, other in zip(found, turned, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fusion", ["radio-map", "attention"])
def test_what_is_absent_changes_nothing(fusion: str) -> None:
    """Neither what an absent place holds, nor how many there are."""
    net, (features, receiver, stands, present) = network(fusion), sessions(5, 4)
    found = net(features, receiver, stands, present)
    spoilt = torch.where(present[..., None, None, None], features, torch.nan)
    others = torch.where(present, receiver, 99), torch.where(present[..., None], stands, torch.nan)
    wider = [torch.cat([part, part[:, :2]], dim=1) for part in (spoilt, *others)]
    more = torch.cat([present, torch.zeros(5, 2, dtype=torch.bool)], dim=1)
    for one, other in zip(found, net(*wider, more), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fusion", ["radio-map", "attention"])
def test_a_receiver_that_training_never_heard_counts_by_its_position_only(fusion: str) -> None:
    features, receiver, stands, present = sessions(3, 4)
    present[:] = True
    without = present.clone()
    without[:, 3] = False
    moved = stands + torch.tensor([0.3, 0.3]) * (receiver == 4)[..., None]
    by_both, by_identity = network(fusion), network(fusion, "identity")
    assert not torch.allclose(
        by_both(features, receiver, stands, present).log_density, by_both(features, receiver, moved, present).log_density
    )
    if fusion == "radio-map":  # attention may still learn from a capture of nobody knows whom
        torch.testing.assert_close(
            by_identity(features, receiver, stands, present).log_density,
            by_identity(features, receiver, stands, without).log_density,
        )


def test_by_position_alone_no_receiver_is_known() -> None:
    batch = sessions(3, 4)
    net = network("radio-map", "position")
    torch.testing.assert_close(net(*batch).log_density, net(batch[0], batch[1] + 50, *batch[2:]).log_density)


def test_radio_map_posterior_is_the_gaussian_with_power_integrated_out() -> None:
    """Against scipy's density of the levels of one session, whose covariance has the power in every element."""
    from scipy.stats import multivariate_normal

    net, (features, receiver, stands, present) = network("radio-map"), sessions(2, 3)
    assert isinstance(net, RadioMapNet)
    token = net.encode(features, present)
    level, read = (part.detach().double().numpy() for part in net.levels(token))
    found = net.log_density(token, receiver, stands, present).detach().numpy()
    for session in range(2):
        here = np.flatnonzero(present[session].numpy())
        expected = []
        for cell in range(0, found.shape[1], 40):
            noise = net.noise.numpy()[here]
            own = np.maximum(noise + read[session, here] - 1.0, 0.25 * noise) + net.variance.numpy()[here, cell]
            covariance = np.diag(own) + float(net.power)
            expected.append(multivariate_normal.logpdf(level[session, here], net.mean.numpy()[here, cell], covariance))
        rest = found[session, ::40] - np.array(expected)
        np.testing.assert_allclose(rest, rest[0], atol=2e-3)


def test_mixture_is_scipys() -> None:
    from scipy.stats import multivariate_normal

    torch.manual_seed(1)
    weight, mean = torch.log_softmax(torch.randn(1, 3), dim=1), torch.randn(1, 3, 2)
    sigma, rho = torch.rand(1, 3, 2) + 0.2, torch.tanh(torch.randn(1, 3)) * 0.9
    mixture, points = Mixture(weight, mean, sigma, rho), torch.randn(1, 6, 2)
    gaussians = []
    for k in range(3):
        (east, north), cross = sigma[0, k].tolist(), float(rho[0, k])
        covariance = [[east**2, cross * east * north], [cross * east * north, north**2]]
        gaussians.append((float(weight[0, k].exp()), mean[0, k].numpy(), np.array(covariance)))
    wanted = np.log(sum(w * multivariate_normal.pdf(points[0].numpy(), m, c) for w, m, c in gaussians))
    np.testing.assert_allclose(mixture.log_density(points)[0].numpy(), wanted, rtol=1e-4)
    centre = sum(w * m for w, m, _ in gaussians)
    second = sum(w * (c + np.outer(m, m)) for w, m, c in gaussians)
    np.testing.assert_allclose(mixture.covariance()[0].numpy(), second - np.outer(centre, centre), atol=1e-5)


def test_summary_of_a_grid_is_that_of_the_place_wing() -> None:
    where = place()
    grid, unit = where.grid, where.region.half_extent_m
    points = torch.from_numpy((grid.points_m / unit).astype(np.float32))
    torch.manual_seed(2)
    log = torch.nn.functional.interpolate(torch.randn(4, 1, 5, 6) * 4, grid.shape, mode="bilinear").reshape(4, -1)
    found = locate(log, points, where.cell_m / unit)
    dense = numpy_density.normalize(log.double().numpy().reshape(4, *grid.shape), grid.cell_m)
    np.testing.assert_allclose(
        found.position.numpy() * unit, numpy_density.medians_m(dense, grid), atol=250
    )  # of cells of 10 km
    wanted = numpy_density.covariances_m2(dense, grid)
    np.testing.assert_allclose(found.covariance.numpy() * unit**2, wanted, rtol=1e-3, atol=1e-3 * float(np.abs(wanted).max()))
    np.testing.assert_allclose(found.log_density.numpy() - 2 * np.log(unit), dense.reshape(4, -1), atol=1e-3)


def test_specs_refuse_what_cannot_be() -> None:
    from featurestore.errors import UsageError

    for wrong in ({"fusion": "sum"}, {"receivers_by": "name"}, {"grid_km": -1.0}, {"receiver_dropout": 1.0}, {"width": 10}):
        with pytest.raises(UsageError):
            SessionSpec(**wrong)
