"""The network: its shapes and bounds, what learns and what does not, and where its weights may come from."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from featurestore.errors import ServiceUnavailableError, UsageError
from trainer.network.model import LocalizationNet
from trainer.network.network_spec import NetworkSpec
from trainer.network.torchvision_ops import declare_missing_ops
from trainer.network.weights import load_weights

ROOT = Path(__file__).resolve().parents[3]
SMALL = "test_convnext"  # timm's own for tests: 0.2 M parameters, of the same code as the large ones


def net(
    backbone: str = SMALL,
    *,
    seed: int = 0,
    dropout: float = 0.0,
    freeze_backbone: bool = False,
    gradient_checkpointing: bool = False,
    drop_path: float = 0.0,
) -> LocalizationNet:
    torch.manual_seed(seed)
    return LocalizationNet(NetworkSpec(backbone, dropout, freeze_backbone, gradient_checkpointing, drop_path))


def tensors(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def timm_backbone(name: str = SMALL, seed: int = 2) -> nn.Module:
    """Made by timm itself, classifier and all."""
    declare_missing_ops()
    import timm

    torch.manual_seed(seed)
    return timm.create_model(name)


def save(path: Path, state: dict[str, Tensor]) -> Path:
    from safetensors.torch import save_file

    save_file(state, path)
    return path


def gradients(model: LocalizationNet, x: Tensor, seed: int = 3) -> dict[str, Tensor | None]:
    torch.manual_seed(seed)  # of dropout and stochastic depth
    model.zero_grad(set_to_none=True)
    model(x).square().sum().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


# What it is made of


@settings(deadline=None)  # the first example imports timm
@given(
    st.sampled_from(["tiny", "small", "base", "large", "convnext_atto", "convnextv2_nano", "convnext_tiny.fb_in22k"]),
    st.floats(0, 1, exclude_max=True),
    st.booleans(),
    st.booleans(),
    st.floats(0, 1, exclude_max=True),
)
def test_spec_survives_json(backbone: str, dropout: float, freeze: bool, checkpointing: bool, drop_path: float) -> None:
    spec = NetworkSpec(backbone, dropout, freeze, checkpointing, drop_path)
    assert NetworkSpec.from_json(json.loads(json.dumps(spec.to_json())), "checkpoint") == spec


def test_default_is_large() -> None:
    assert NetworkSpec().timm_name == "convnext_large"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"backbone": "convnet_atto"}, ["'convnet_atto'", "tiny, small, base, large", "convnext_atto"]),
        ({"backbone": "resnet50"}, ["'resnet50'", "timm.list_models"]),
        ({"backbone": "convnext_tiny.nobody"}, ["'convnext_tiny.nobody'", "did you mean"]),
        ({"backbone": 3}, ["is 3"]),
        ({"backbone": ["tiny"]}, ["['tiny']"]),
        ({"dropout": 1.0}, ["dropout is 1.0", "0 to below 1"]),
        ({"dropout": -0.1}, ["dropout is -0.1"]),
        ({"dropout": float("nan")}, ["dropout is nan"]),
        ({"dropout": "0.1"}, ["dropout is '0.1'"]),
        ({"drop_path": 2}, ["drop_path is 2"]),
        ({"drop_path": True}, ["drop_path is True"]),
        ({"freeze_backbone": 1}, ["freeze_backbone is 1", "true or false"]),
        ({"gradient_checkpointing": "no"}, ["gradient_checkpointing is 'no'"]),
    ],
)
def test_impossible_specs_are_named(values: dict[str, object], words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        NetworkSpec.from_json(NetworkSpec().to_json() | values, "checkpoint")
    assert all(word in str(caught.value) for word in words), caught.value


def test_fields_of_another_version_are_named() -> None:
    values = NetworkSpec().to_json()
    del values["dropout"]
    with pytest.raises(UsageError, match=r"last\.ckpt .* fields dropout, width differ"):
        NetworkSpec.from_json(values | {"width": 3}, "last.ckpt")


# torchvision documents 28,589,128 and 197,767,336 parameters; the classifiers take 1000 × (768 + 1) and 1000 × (1536 + 1).
@pytest.mark.parametrize(("size", "width", "backbone"), [("tiny", 768, 27_820_128), ("large", 1536, 196_230_336)])
def test_parameter_counts(size: str, width: int, backbone: int) -> None:
    with torch.device("meta"):  # shapes without memory
        model = LocalizationNet(NetworkSpec(size))
    head = (512 * 128 + 128) + (128 * 64 + 64) + (64 * 2 + 2)
    neck = 2 * width + width * 512 + 512
    assert sum(parameter.numel() for parameter in model.backbone.parameters()) == backbone
    assert sum(parameter.numel() for parameter in model.parameters()) == backbone + neck + 2 * head


# What goes in and what comes out


@pytest.mark.parametrize("backbone", [SMALL, "convnext_atto", "convnextv2_atto", "convnext_tiny_hnf", "convnext_zepto_rms"])
def test_every_family_of_convnext_fits_the_neck(backbone: str) -> None:
    with torch.device("meta"):
        assert net(backbone).embed(torch.zeros(2, 3, 128, 32)).shape == (2, 512)


@pytest.mark.parametrize("shape", [(4, 3, 128, 32), (1, 3, 13, 32), (2, 3, 1, 1), (2, 3, 40, 45), (0, 3, 128, 32)])
def test_batches_of_any_shape(shape: tuple[int, ...]) -> None:
    with torch.no_grad():
        y = net().eval()(tensors(*shape))
    assert y.shape == (shape[0], 4)
    assert y.dtype == torch.float32
    assert y.isfinite().all()


def test_short_sides_are_padded_with_the_mean_and_whole_ones_are_left() -> None:
    model, x = net().eval(), tensors(2, 3, 40, 32)
    padded = torch.cat([x, torch.zeros(2, 3, 24, 32)], dim=2)
    assert torch.equal(model(x), model(padded))
    # Every band counts: without padding the backbone would never see the last ones of 13.
    changed = x[:, :, :13].clone()
    changed[:, :, 12] += 1
    assert not torch.equal(model(x[:, :, :13]), model(changed))


@pytest.mark.parametrize(
    "shape", [(3, 128, 32), (2, 1, 128, 32), (2, 4, 128, 32), (2, 3, 0, 32), (2, 3, 9, 0), (2, 3, 2, 2, 2)]
)
def test_other_tensors_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"takes \(batch, 3, n_bands, n_frames\)") as caught:
        net()(torch.zeros(shape))
    assert str(shape) in str(caught.value)


@settings(deadline=None, max_examples=30)
@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_sigma_is_bounded_and_position_is_not(position: float, raw: float) -> None:
    model = net().eval()
    with torch.no_grad():
        for head, value in ((model.position_head, position), (model.uncertainty_head, raw)):
            last = head[-1]
            assert isinstance(last, nn.Linear)
            last.weight.zero_()
            last.bias.fill_(value)
        y = model(tensors(1, 3, 32, 32))
    torch.testing.assert_close(y[:, :2], torch.full((1, 2), position))
    assert ((y[:, 2:] >= 0.01) & (y[:, 2:] <= 1.0)).all()


def test_starts_near_the_middle_and_knows_that_it_knows_nothing() -> None:
    with torch.no_grad():
        y = net("convnext_atto").eval()(tensors(32, 3, 128, 32))
    assert y[:, :2].abs().max() < 0.5
    assert ((y[:, 2:] > 0.35) & (y[:, 2:] < 0.65)).all()  # targets spread evenly over the region deviate by 1/√3


def test_channels_last_gives_the_same() -> None:
    model, x = net().eval(), tensors(4, 3, 128, 32)
    expected = model(x)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # typed for 4-D tensors only
    torch.testing.assert_close(model(x.to(memory_format=torch.channels_last)), expected, rtol=1e-4, atol=1e-5)


def test_autocast_leaves_neck_heads_and_sigma_in_float32() -> None:
    model, x = net().eval(), tensors(8, 3, 128, 32)
    seen: dict[str, torch.dtype] = {}
    parts = {"neck": model.neck, "position": model.position_head, "uncertainty": model.uncertainty_head}
    for name, part in parts.items():
        part.register_forward_hook(lambda _module, _inputs, output, name=name: seen.update({name: output.dtype}))
    with torch.no_grad():
        expected = model(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = model(x)
    assert seen == dict.fromkeys(parts, torch.float32)
    assert y.dtype == torch.float32
    assert not torch.equal(y, expected)  # the backbone did run in bfloat16
    torch.testing.assert_close(y, expected, rtol=0.05, atol=0.02)
    assert not torch.equal(y, y.bfloat16().float())  # not on bfloat16's coarse grid


def test_weights_in_bfloat16_still_answer_in_float32() -> None:
    y = net().eval().to(torch.bfloat16)(tensors(2, 3, 128, 32).bfloat16())
    assert y.dtype == torch.float32
    assert ((y[:, 2:] >= 0.01) & (y[:, 2:] <= 1.0)).all()


# What learns


@pytest.mark.parametrize("backbone", [SMALL, "convnext_atto"])
def test_gradient_reaches_every_parameter(backbone: str) -> None:
    found = gradients(net(backbone), tensors(2, 3, 32, 32))
    assert [name for name, grad in found.items() if grad is None or not grad.isfinite().all() or not grad.any()] == []


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_a_frozen_backbone_neither_learns_nor_moves(gradient_checkpointing: bool) -> None:
    model = net(freeze_backbone=True, drop_path=0.5, gradient_checkpointing=gradient_checkpointing)
    assert not model.backbone.training
    model.eval()
    model.train()
    assert model.neck.training
    assert not any(module.training for module in model.backbone.modules())
    x = tensors(4, 3, 128, 32)
    assert torch.equal(model(x), model(x))  # no stochastic depth

    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = gradients(model, x)
    assert {name for name, grad in found.items() if grad is not None} == {
        name for name in found if not name.startswith("backbone.")
    }
    torch.optim.AdamW(model.parameters(), lr=1e-2).step()
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {name for name in found if not name.startswith("backbone.")}


def test_drop_path_and_dropout_act_in_training_only() -> None:
    x = tensors(8, 3, 32, 32)
    for model in (net(drop_path=0.5), net(dropout=0.5)):
        assert not torch.equal(model(x), model(x))
        model.eval()
        assert torch.equal(model(x), model(x))


def test_checkpointing_gives_the_same_gradients() -> None:
    x = tensors(4, 3, 128, 32)
    plain = net(dropout=0.2, drop_path=0.3)
    saving = net(dropout=0.2, drop_path=0.3, gradient_checkpointing=True)
    kept = [sum(_activation_bytes(model, x)) for model in (plain, saving)]
    assert kept[1] < kept[0] / 2  # it is on
    expected, found = gradients(plain, x), gradients(saving, x)
    for name, grad in expected.items():
        torch.testing.assert_close(found[name], grad)


def _activation_bytes(model: LocalizationNet, x: Tensor) -> list[int]:
    """Sizes of the tensors that the forward pass keeps for the backward pass."""
    kept: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.nbytes)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(x)
    return kept


# Where weights come from


def test_state_dict_round_trip() -> None:
    first, second, x = net(seed=0).eval(), net(seed=1).eval(), tensors(2, 3, 128, 32)
    assert not torch.equal(first(x), second(x))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(x), second(x))


def test_timm_checkpoint_is_loaded_without_its_classifier(tmp_path: Path) -> None:
    source = timm_backbone().eval()
    path = save(tmp_path / "model.safetensors", source.state_dict())
    model, x = net().eval(), tensors(2, 3, 128, 32)
    report = load_weights(model, path)
    assert set(report.loaded) == set(model.backbone.state_dict())
    assert report.skipped == ("head.fc.bias", "head.fc.weight")
    assert report.mismatched == report.missing == ()
    assert "2 skipped (head.fc.bias, head.fc.weight)" in str(report)
    classifier = source.get_submodule("head.fc")
    torch.testing.assert_close(classifier(model.backbone(x)), source(x))  # what timm itself makes of these weights


def test_half_precision_checkpoints_become_the_networks_type(tmp_path: Path) -> None:
    state = {name: tensor.half() for name, tensor in timm_backbone().state_dict().items()}
    model = net()
    load_weights(model, save(tmp_path / "half.safetensors", state))
    stem = model.backbone.state_dict()["stem.0.weight"]
    assert stem.dtype == torch.float32
    assert torch.equal(stem, state["stem.0.weight"].float())


def test_what_does_not_fit_is_reported_and_left_alone(tmp_path: Path) -> None:
    state = timm_backbone().state_dict()
    state["stem.0.weight"] = torch.zeros(24, 1, 4, 4)
    state["stem.0.bias"] = torch.zeros(24, dtype=torch.int8)
    del state["head.norm.bias"]
    model = net()
    before = {name: tensor.clone() for name, tensor in model.backbone.state_dict().items()}
    report = load_weights(model, save(tmp_path / "odd.safetensors", state))
    assert report.mismatched == (
        "stem.0.bias (int8 24, float32 24)",
        "stem.0.weight (float32 24×1×4×4, float32 24×3×4×4)",
    )
    assert report.missing == ("head.norm.bias",)
    after = model.backbone.state_dict()
    for name in ("stem.0.weight", "stem.0.bias", "head.norm.bias"):
        assert torch.equal(after[name], before[name])
    assert torch.equal(after["stages.0.blocks.0.conv_dw.weight"], state["stages.0.blocks.0.conv_dw.weight"])


def _unusable(kind: str, folder: Path) -> Path:
    state = timm_backbone().state_dict()
    path = folder / f"{kind}.safetensors"
    if kind == "truncated":
        whole = save(path, state).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "renamed pickle":
        path.write_bytes(pickle.dumps({"weight": [1.0] * 100}))
    elif kind == "pickle":
        path = folder / "model.pth"
        torch.save(state, path)
    elif kind == "unrelated":
        save(path, {"layer.weight": torch.zeros(3)})
    elif kind == "other shapes":
        save(path, {name: torch.zeros(1, 1, 1, 1, 1) for name in state})
    elif kind == "not finite":
        state["stem.0.bias"][0] = torch.nan
        save(path, state)
    elif kind == "folder":
        path.mkdir()
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("truncated", "damaged, cut short"),
        ("empty", "damaged, cut short"),
        ("renamed pickle", "damaged, cut short or no .safetensors"),
        ("pickle", "can hold no code"),
        ("unrelated", "none of which fits the backbone test_convnext"),
        ("other shapes", "none of which fits"),
        ("not finite", "stem.0.bias hold NaN or infinity"),
        ("absent", "No such file"),
        ("folder", "cannot be read"),
    ],
)
def test_unusable_files_are_refused_and_change_nothing(kind: str, words: str, tmp_path: Path) -> None:
    path = _unusable(kind, tmp_path)
    model = net()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UsageError) as caught:
        load_weights(model, path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_hub_out_of_reach_is_a_service_that_can_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The hub's own switch, set where its variables are kept once it is imported: without it, it tries again for 47 s.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ServiceUnavailableError, match=r"pretrained weights of test_convnext does not answer .* --weights"):
        LocalizationNet(NetworkSpec(SMALL), pretrained=True)


def test_a_backbone_without_weights_says_so() -> None:
    with pytest.raises(UsageError, match="no pretrained weights for the backbone convnextv2_small"):
        LocalizationNet(NetworkSpec("convnextv2_small"), pretrained=True)


# What it imports


def _output(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip()


def test_importing_the_network_imports_little_and_timm_follows() -> None:
    """Also when another library tried torchvision before, and swallowed what it raised."""
    code = """
import sys, trainer.network.model
print({"lightning", "dask", "distributed", "psycopg", "mlflow", "timm", "torchvision"} & set(sys.modules))
try:
    import torchvision
except RuntimeError:
    pass
print(trainer.network.model.NetworkSpec("convnext_atto").timm_name)
"""
    assert _output(code).split() == ["set()", "convnext_atto"]


def test_compiled_operators_are_left_alone_where_they_are() -> None:
    """Declared beforehand, as a compiled torchvision does: declaring again would be an error."""
    code = """
import torch
from trainer.network.torchvision_ops import OPERATORS, SCHEMA, declare_missing_ops
library = torch.library.Library("torchvision", "FRAGMENT")
for name in OPERATORS:
    if not hasattr(torch.ops.torchvision, name):
        library.define(name + SCHEMA)
print(declare_missing_ops())
"""
    assert _output(code) == "None"
