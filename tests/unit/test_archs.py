"""Architectures: published sizes, every input shape, normalisation inside, and clear refusals."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.fx.experimental.optimization import fuse

from deatbench.archs import ARCHS
from deatbench.archs.build import build_arch, count_flops, count_params
from deatbench.archs.layers import scaled
from deatbench.archs.normalize import Normalize
from deatbench.archs.resnet import ZeroPadShortcut
from deatbench.archs.senet import SqueezeExcite
from deatbench.errors import ConfigError, MissingError, UnknownNameError

NAMES = [name for name in ARCHS.names() if "{" not in name]
CIFAR10 = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616)}
GREY = {"mean": (0.3,), "std": (0.2,)}
TINY = 1 / 16

# CIFAR-10, 10 classes, 32×32 RGB. Exact counts, and where each figure was published.
PARAMS = {
    # github.com/kuangliu/pytorch-cifar, the networks behind DEAT's Table 1 (2306.02618)
    "vgg11": 9_231_114,
    "vgg13": 9_416_010,
    "vgg16": 14_728_266,
    "vgg19": 20_040_522,
    "resnet18": 11_173_962,
    "resnet34": 21_282_122,
    "resnet50": 23_520_842,
    "senet18": 11_260_354,
    # the same, 11,171,146, plus the last batch norm of He et al. 2016b (2 × 512), as in Rice et al. 2020 (2002.11569)
    "preact_resnet18": 11_172_170,
    # He et al. 2016, Table 6: 0.27 M
    "resnet20": 269_722,
    # n = 1 of the same, by hand: 3×3 weights, batch norms, linear layer
    "resnet8": 9 * (48 + 512 + 512 + 1024 + 2048 + 4096) + 2 * (48 + 64 + 128) + 650,
    # De et al. 2022 (2204.13650): 2.7 M
    "wrn_16_4": 2_748_890,
    # Zagoruyko & Komodakis 2016, Table 4: 36.5 M
    "wrn_28_10": 36_479_194,
    # Gowal et al. 2020 (2010.03593): 46 M and 267 M
    "wrn_34_10": 46_160_474,
    "wrn_70_16": 266_796_506,
}

# GFLOP of one 32×32 forward, 2 × the multiply-adds that the papers above give.
GFLOP = {
    "resnet18": 1.111,
    "preact_resnet18": 1.111,
    "vgg16": 0.626,
    "wrn_28_10": 10.49,
    "wrn_34_10": 13.32,
}


def build(name: str, image_size: int = 32, in_channels: int = 3, **params: Any) -> nn.Module:
    statistics = CIFAR10 if in_channels == 3 else GREY
    return build_arch(name, num_classes=10, in_channels=in_channels, image_size=image_size, **statistics, **params)


def on_meta(name: str, **params: Any) -> nn.Module:
    with torch.device("meta"):
        return build(name, **params)


def skip_where_timm_is_too_old(name: str) -> None:
    if not timm.is_model(name.removeprefix("timm/")):
        pytest.skip(f"timm {timm.__version__} has no {name}")


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


# Sizes


@pytest.mark.parametrize("name", PARAMS)
def test_parameter_count_is_the_published_one(name: str) -> None:
    assert count_params(on_meta(name)) == PARAMS[name]


@pytest.mark.parametrize("name", GFLOP)
def test_flops_are_the_published_ones(name: str) -> None:
    assert count_flops(on_meta(name), (1, 3, 32, 32)) / 1e9 == pytest.approx(GFLOP[name], rel=1e-3)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("resnet18", "timm/resnet18"),
        ("resnet34", "timm/resnet34"),
        ("resnet50", "timm/resnet50"),
        ("preact_resnet34", "timm/resnetv2_34"),
        ("preact_resnet50", "timm/resnetv2_50"),
    ],
)
def test_as_large_as_timms_own_code_with_the_small_stem(ours: str, theirs: str) -> None:
    skip_where_timm_is_too_old(theirs)
    a, b = on_meta(ours), build(theirs)
    assert count_params(a) == count_params(b)
    assert count_flops(a, (1, 3, 32, 32)) == count_flops(b, (1, 3, 32, 32))


def renamed(key: str) -> str:
    """Our name of a weight → timm's, for ResNet and, with the prefix `v2.`, for its pre-activation form."""
    if key.startswith("v2."):
        key = re.sub(r"^v2\.conv1", "stem.conv", key).removeprefix("v2.")
        key = re.sub(r"stages\.(\d)\.", r"stages.\1.blocks.", key).replace("shortcut", "downsample.conv")
        return re.sub(r"\bbn(\d?)\b", r"norm\1", key).replace("head", "head.fc")
    key = re.sub(r"stages\.(\d)", lambda stage: f"layer{int(stage[1]) + 1}", key)
    return key.replace("shortcut", "downsample").replace("head", "fc")


@pytest.mark.parametrize(
    ("ours", "theirs", "prefix"),
    [
        ("resnet18", "timm/resnet18", ""),
        ("resnet50", "timm/resnet50", ""),
        ("preact_resnet18", "timm/resnetv2_18", "v2."),
        ("preact_resnet50", "timm/resnetv2_50", "v2."),
    ],
)
def test_same_logits_as_timms_own_code_with_the_same_weights(ours: str, theirs: str, prefix: str) -> None:
    skip_where_timm_is_too_old(theirs)
    a, b = build(ours, 8), build(theirs, 8)
    x_NCHW = torch.rand(8, 3, 8, 8)
    a(x_NCHW)  # running statistics away from 0 and 1
    twin = b.get_submodule("net")
    weights = {renamed(prefix + key): value for key, value in a.get_submodule("net").state_dict().items()}
    twin.load_state_dict({key: weights[key].reshape(value.shape) for key, value in twin.state_dict().items()})
    assert weights.keys() == twin.state_dict().keys()
    torch.testing.assert_close(a.eval()(x_NCHW), b.eval()(x_NCHW), rtol=1e-4, atol=1e-4)


def test_squeeze_and_excitation_is_a_gate_per_channel() -> None:
    gate = SqueezeExcite(32)
    x_NCHW = torch.randn(2, 32, 5, 5)
    squeezed = x_NCHW.sum(dim=(2, 3)) / 25
    hidden = (squeezed @ gate.squeeze.weight.T + gate.squeeze.bias).clamp(min=0)
    assert hidden.shape == (2, 2)
    expected = 1 / (1 + (-(hidden @ gate.excite.weight.T + gate.excite.bias)).exp())
    torch.testing.assert_close(gate(x_NCHW) / x_NCHW, expected[:, :, None, None].expand_as(x_NCHW))
    assert SqueezeExcite(3).squeeze.out_features == 1


def test_zero_padded_shortcut_subsamples_and_adds_no_parameter() -> None:
    shortcut = ZeroPadShortcut(2, 5, stride=2)
    x_NCHW = torch.rand(1, 2, 5, 5)
    out_NCHW = shortcut(x_NCHW)
    assert out_NCHW.shape == (1, 5, 3, 3)
    assert torch.equal(out_NCHW[:, 1:3], x_NCHW[:, :, ::2, ::2])
    assert out_NCHW[:, [0, 3, 4]].abs().sum() == 0
    assert count_params(shortcut) == 0


def test_every_registered_arch_has_a_known_size() -> None:
    assert set(NAMES) == {*PARAMS, "preact_resnet34", "preact_resnet50"}


def test_flops_scale_with_the_batch_and_leave_modes_and_statistics_alone() -> None:
    model = build("resnet8", width=0.25)
    frozen = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d)).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert count_flops(model, (4, 3, 32, 32)) == 4 * count_flops(model, (1, 3, 32, 32))
    assert [module for module in model.modules() if not module.training] == [frozen]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_count_params_counts_frozen_ones_but_no_buffers() -> None:
    model = nn.Sequential(Normalize([0.5], [0.5]), nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    model.requires_grad_(False)
    assert count_params(model) == 18 + 2 + 4


# Shapes


@pytest.mark.parametrize("name", NAMES)
def test_logits_for_every_image_size_and_channel_count(name: str) -> None:
    for image_size in (8, 28, 32, 64):
        for in_channels in (1, 3):
            model = build(name, image_size, in_channels, width=TINY).eval()
            x_NCHW = torch.rand(2, in_channels, image_size, image_size)
            with torch.no_grad():
                logits_NK = model(x_NCHW)
            assert logits_NK.shape == (2, 10)
            assert logits_NK.isfinite().all()
            assert not torch.equal(logits_NK[0], logits_NK[1])


@pytest.mark.parametrize("name", NAMES)
def test_gradient_reaches_every_pixel_and_every_parameter_in_training(name: str) -> None:
    model = build(name, 8, width=0.125)
    x_NCHW = torch.rand(4, 3, 8, 8, requires_grad=True)
    nn.functional.cross_entropy(model(x_NCHW), torch.tensor([0, 1, 2, 3])).backward()
    assert x_NCHW.grad is not None
    assert (x_NCHW.grad.abs().sum(dim=1) > 0).all()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(["vgg11", "resnet8", "resnet18", "preact_resnet18", "senet18", "wrn_16_4"]),
    width=st.floats(1e-6, 0.3),
)
def test_any_width_gives_a_working_network(name: str, width: float) -> None:
    model = build(name, 8, width=width).eval()
    assert model(torch.rand(1, 3, 8, 8)).shape == (1, 10)


@given(
    channels=st.integers(1, 2048),
    narrow=st.floats(1e-6, 8, exclude_min=True),
    wide=st.floats(1e-6, 8, exclude_min=True),
)
def test_scaled_channels_are_positive_monotone_and_nearest(channels: int, narrow: float, wide: float) -> None:
    narrow, wide = sorted((narrow, wide))
    assert 1 <= scaled(channels, narrow) <= scaled(channels, wide)
    assert scaled(channels, 1.0) == channels
    assert scaled(channels, wide) == 1 or abs(scaled(channels, wide) - channels * wide) <= 0.5


def test_vgg_drops_its_pools_once_one_pixel_is_left() -> None:
    def pools(image_size: int) -> int:
        return sum(isinstance(m, nn.MaxPool2d) for m in on_meta("vgg16", image_size=image_size).modules())

    assert {size: pools(size) for size in (8, 16, 28, 32, 64)} == {8: 3, 16: 4, 28: 4, 32: 5, 64: 5}


# What later stages rely on


@pytest.mark.parametrize("name", NAMES)
def test_batch_norm_folds_into_the_convolutions_and_logits_stay(name: str) -> None:
    model = build(name, 8, width=TINY)
    x_NCHW = torch.rand(8, 3, 8, 8)
    model(x_NCHW)  # running statistics away from 0 and 1
    model.eval()
    folded = fuse(model)
    norms, left = (sum(isinstance(m, nn.BatchNorm2d) for m in net.modules()) for net in (model, folded))
    assert left < norms
    if name.startswith(("vgg", "resnet")):
        assert left == 0
    torch.testing.assert_close(folded(x_NCHW), model(x_NCHW), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_channels_last_survives_up_to_the_head(name: str) -> None:
    model = build(name, 16, width=0.125).eval().to(memory_format=torch.channels_last)
    x_NCHW = torch.rand(2, 3, 16, 16).to(memory_format=torch.channels_last)
    strided = []

    def check(module: nn.Module, args: Any, out: torch.Tensor) -> None:
        strided.append(out.is_contiguous(memory_format=torch.channels_last))

    for module in model.modules():
        if isinstance(module, Normalize | nn.Conv2d | nn.BatchNorm2d):
            module.register_forward_hook(check)
    expected = build_like(model, name)(x_NCHW.contiguous())
    torch.testing.assert_close(model(x_NCHW), expected, rtol=1e-4, atol=1e-5)
    assert strided
    assert all(strided)


def build_like(model: nn.Module, name: str) -> nn.Module:
    twin = build(name, 16, width=0.125).eval()
    twin.load_state_dict(model.state_dict())
    return twin


def test_same_seed_same_weights() -> None:
    torch.manual_seed(7)
    first = build("senet18", 8, width=TINY).state_dict()
    torch.manual_seed(7)
    second = build("senet18", 8, width=TINY).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_convolutions_start_with_the_variance_of_kaiming() -> None:
    convs = [m for m in build("resnet18", width=0.5).modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    for conv in convs:
        assert conv.weight.std().item() == pytest.approx((2 / (9 * conv.out_channels)) ** 0.5, rel=0.1)


# Normalisation


def test_pixels_in_0_1_are_normalised_inside() -> None:
    model = build("resnet8", 8, width=0.5).eval()
    x_NCHW = torch.rand(4, 3, 8, 8)
    mean, std = (torch.tensor(CIFAR10[key]).reshape(1, 3, 1, 1) for key in ("mean", "std"))
    net = model.get_submodule("net")
    torch.testing.assert_close(model(x_NCHW), net((x_NCHW - mean) / std))
    assert not torch.allclose(model(x_NCHW), net(x_NCHW))


def test_normalisation_is_saved_with_the_weights() -> None:
    saved = build("resnet8", 8, width=0.5).state_dict()
    other = build_arch("resnet8", num_classes=10, in_channels=3, image_size=8, mean=[0] * 3, std=[1] * 3, width=0.5)
    other.load_state_dict(saved)
    torch.testing.assert_close(other.state_dict()["normalize.mean"].flatten(), torch.tensor(CIFAR10["mean"]))


# timm


@pytest.mark.parametrize(
    ("name", "image_size", "in_channels", "params"),
    [
        ("timm/resnet18", 32, 3, {}),
        ("timm/resnet18.a1_in1k", 8, 1, {}),
        ("timm/vit_tiny_patch16_224", 32, 3, {}),
        ("timm/vit_tiny_patch16_224", 8, 1, {"patch_size": 2}),
        ("timm/mobilenetv3_small_050", 32, 3, {}),
        ("timm/mobilenetv3_small_050", 8, 1, {}),
    ],
)
def test_timm_models_take_small_images(name: str, image_size: int, in_channels: int, params: dict[str, Any]) -> None:
    model = build(name, image_size, in_channels, **params)
    assert all(module.training for module in model.modules())
    x_NCHW = torch.rand(2, in_channels, image_size, image_size, requires_grad=True)
    logits_NK = model.eval()(x_NCHW)
    assert logits_NK.shape == (2, 10)
    (gradient,) = torch.autograd.grad(logits_NK[:, 0].sum() - logits_NK[:, 1].sum(), x_NCHW)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize(("name", "strides"), [("timm/resnet18", 8), ("timm/mobilenetv3_small_050", 16)])
def test_timm_stems_keep_the_resolution_of_small_images_only(name: str, strides: int) -> None:
    net = on_meta(name, image_size=64).get_submodule("net")
    assert net.forward_features(torch.zeros(1, 3, 64, 64, device="meta")).shape[-1] == 64 // strides  # type: ignore[operator]
    net = on_meta(name, image_size=96).get_submodule("net")
    assert net.forward_features(torch.zeros(1, 3, 96, 96, device="meta")).shape[-1] == 96 // 32  # type: ignore[operator]


def test_unknown_timm_names_give_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown timm model 'resnet81'.*resnet18"):
        build("timm/resnet81")
    with pytest.raises(UnknownNameError, match=r"resnet18\.a1_in1k"):
        build("timm/resnet18.a1_in2k")


@pytest.mark.parametrize(
    "name", ["timm/hf-hub:timm/resnet18.a1_in1k", "timm/local-dir:/tmp", "timm/../resnet18", "timm/"]
)
def test_timm_names_are_never_addresses_or_paths(name: str) -> None:
    with pytest.raises(UnknownNameError):
        build(name)


@pytest.mark.parametrize(
    ("name", "image_size", "params", "words"),
    [
        ("timm/resnet18", 32, {"width": 0.5}, r"unknown parameter of arch 'timm/resnet18': 'width'"),
        ("timm/resnet18", 32, {"patch_size": 4}, "cannot build 'resnet18'.*patch_size"),
        ("timm/resnet18", 32, {"pretrained": "no"}, "true or false"),
        ("timm/vit_tiny_patch16_224", 8, {}, "cannot take 8×8 images.*patch_size"),
        ("timm/vit_tiny_patch16_224", 8, {"patch_size": 0}, "cannot build"),
        ("timm/convnext_atto", 8, {}, "cannot take 8×8 images"),
    ],
)
def test_timm_refusals_are_configuration_errors(name: str, image_size: int, params: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build(name, image_size, **params)


def test_pretrained_without_network_or_without_weights_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MissingError, match="pretrained weights of timm/resnet18 could not be loaded"):
        build("timm/resnet18", pretrained=True)
    with_weights = {tagged.partition(".")[0] for tagged in timm.list_pretrained()}
    without = next(name for name in timm.list_models() if name not in with_weights)
    with pytest.raises(MissingError, match=f"no pretrained weights for '{without}'"):
        build(f"timm/{without}", pretrained=True)


# Refusals


def test_unknown_arch_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown arch 'vgg61'.*vgg16") as raised:
        build("vgg61")
    assert raised.value.exit_code == 2


def test_unknown_parameter_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'widht'.*did you mean width\?") as raised:
        build("vgg16", widht=0.5)
    assert raised.value.exit_code == 2
    with pytest.raises(ConfigError, match=r"'pretrain'.*did you mean pretrained\?"):
        build("timm/resnet18", pretrain=True)


@pytest.mark.parametrize("width", [0, 0.0, -1.0, float("nan"), float("inf"), "0.5", None, True])
def test_bad_width(width: Any) -> None:
    with pytest.raises(ConfigError, match="width must be a number > 0"):
        build("vgg16", width=width)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"num_classes": 1}, "num_classes"),
        ({"num_classes": 2.0}, "num_classes"),
        ({"in_channels": 2}, r"1 channel \(grey\) or 3 \(RGB\), not 2"),
        ({"in_channels": 4}, "not 4"),
        ({"image_size": 7}, "at least 8×8 pixels, not 7"),
        ({"image_size": 8.5}, "not 8.5"),
        ({"mean": (0.5,)}, "mean must be 3 finite numbers"),
        ({"mean": (0.5, 0.5, float("nan"))}, "mean must be 3 finite numbers"),
        ({"std": (0.5, 0.5)}, "std must be 3 finite numbers"),
        ({"std": (0.5, 0.5, 0.0)}, "std must be > 0"),
        ({"in_channels": 1}, "mean must be 1 finite number, one per channel"),
    ],
)
def test_bad_values(changed: dict[str, Any], words: str) -> None:
    arguments = {"num_classes": 10, "in_channels": 3, "image_size": 32, **CIFAR10, **changed}
    with pytest.raises(ConfigError, match=words) as raised:
        build_arch("resnet8", **arguments)
    assert raised.value.exit_code == 2
