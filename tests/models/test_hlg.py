"""The HLG family: the paper's counts, shapes at any size, training, checkpointing, saving."""

import copy
import warnings

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from densevit.errors import UserError
from densevit.models.hlg import DEPTHS_AS_PRINTED, HLG, HLG_VARIANTS, create_hlg

COUNTS = {  # params in M, multiply-accumulates in G at 224, tolerance of the latter
    "hlg_mobile": (4.3, 0.9, 0.03), "hlg_tiny": (11.0, 2.1, 0.05), "hlg_small": (24.2, 4.7, 0.03),
    "hlg_medium": (47.8, 9.0, 0.03), "hlg_large": (84.2, 15.9, 0.03),
}  # fmt: skip
TINY = {"embed_dims": (16, 32, 32, 64), "num_heads": (1, 2, 2, 4), "depths": (2, 2, 2, 1)}


def count(model, size=(224, 224)):
    """(parameters in M, multiply-accumulates in G), attention matmuls included, without computing anything."""
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, *size, device="meta"))
    return sum(p.numel() for p in model.parameters()) / 1e6, counter.get_total_flops() / 2e9


def meta(name, **kwargs):
    with torch.device("meta"):
        return create_hlg(name, **kwargs).eval()


@pytest.mark.parametrize("name", COUNTS)
def test_counts_are_those_of_table_7(name):
    params, macs, tolerance = COUNTS[name]
    ours = count(meta(name))
    assert ours[0] == pytest.approx(params, rel=0.015)
    assert ours[1] == pytest.approx(macs, rel=tolerance)


def test_widths_heads_and_depths_of_table_1():
    assert set(HLG_VARIANTS) == set(COUNTS)
    large = HLG_VARIANTS["hlg_large"]
    assert large == {"embed_dims": (128, 256, 512, 1024), "num_heads": (4, 8, 16, 32), "depths": (2, 2, 18, 2)}
    assert HLG_VARIANTS["hlg_mobile"]["depths"] == (2, 2, 2, 2)
    assert HLG_VARIANTS["hlg_medium"]["depths"] == (2, 2, 18, 2)


def test_depths_as_printed_give_the_counts_of_the_notes():
    assert count(meta("hlg_large", depths=DEPTHS_AS_PRINTED)) == pytest.approx((70.5, 13.4), rel=0.01)
    assert count(meta("hlg_medium", depths=DEPTHS_AS_PRINTED)) == pytest.approx((40.0, 7.6), rel=0.01)


@pytest.mark.parametrize("size", [(64, 96), (97, 51), (32, 224), (5, 7)])
def test_feature_maps_have_strides_4_to_32_at_any_size(size):
    model = HLG(**TINY, features_only=True).eval()
    maps = model(torch.randn(2, 3, *size))
    for features, dim, stride in zip(maps, TINY["embed_dims"], (4, 8, 16, 32), strict=True):
        assert features.shape == (2, dim, -(-size[0] // stride), -(-size[1] // stride))
        assert features.is_contiguous(memory_format=torch.channels_last)
    assert model.feature_info.channels() == list(TINY["embed_dims"])
    assert model.feature_info.reduction() == [4, 8, 16, 32]


def test_out_indices_choose_the_maps_and_their_norms():
    torch.manual_seed(0)
    model = HLG(**TINY, features_only=True, out_indices=(1, -2)).eval()
    maps = model(torch.randn(1, 3, 64, 96))
    assert [m.shape[1] for m in maps] == [32, 32]
    assert model.feature_info.reduction() == [8, 16]
    assert set(model.norms) == {"1", "2"}
    means = maps[0].mean(dim=1)
    torch.testing.assert_close(means, torch.zeros_like(means), atol=1e-5, rtol=0)


def test_classifier_is_the_mean_of_the_last_normed_map():
    model = HLG(**TINY, num_classes=5).eval()
    images = torch.randn(2, 3, 64, 96)
    features = model.forward_features(images)
    expected = model.head(features.flatten(2).mean(-1))
    torch.testing.assert_close(model(images), expected)
    model.reset_classifier(0)
    assert model(images).shape == (2, 64)


def test_channels_last_and_contiguous_images_give_the_same():
    model = HLG(**TINY, num_classes=5).eval()
    images = torch.randn(2, 3, 64, 96)
    torch.testing.assert_close(model(images.to(memory_format=torch.channels_last)), model(images))


def test_every_parameter_gets_a_gradient():
    torch.manual_seed(0)
    model = HLG(**TINY, num_classes=5, drop_path_rate=0.1)
    model(torch.randn(4, 3, 64, 96)).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_gradient_checkpointing_changes_nothing():
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = HLG(**TINY, num_classes=5, drop_path_rate=0.2, grad_checkpointing=checkpointing)
        torch.manual_seed(1)
        model(torch.randn(3, 3, 64, 32)).square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed, rtol=1e-4, atol=1e-5)


def test_a_small_model_fits_a_batch():
    torch.manual_seed(0)
    model = HLG(**TINY, num_classes=4)
    images, labels = torch.randn(8, 3, 32, 64), torch.arange(8) % 4
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True])
def test_compiles_to_one_graph(training):
    torch.manual_seed(0)
    model = HLG(**TINY, num_classes=4).train(training)
    images = torch.randn(2, 3, 96, 64)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.set_grad_enabled(training):
        torch.testing.assert_close(compiled(images), model(images), rtol=1e-4, atol=1e-5)


@pytest.fixture
def bfloat16(monkeypatch):
    """A CPU that has bfloat16, as the model sees it."""
    monkeypatch.setattr("densevit.kernels.bfloat16.CPU_HAS_BFLOAT16", True)


@torch.no_grad()
def test_bfloat16_is_float32_where_the_cpu_lacks_it(monkeypatch):
    monkeypatch.setattr("densevit.kernels.bfloat16.CPU_HAS_BFLOAT16", False)
    model, images = HLG(**TINY, num_classes=4).eval(), torch.randn(2, 3, 96, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, map_ = model(images), model.forward_features(images)
    assert output.dtype == torch.bfloat16
    assert torch.equal(map_, model.forward_features(images))


@pytest.mark.usefixtures("bfloat16")
@torch.no_grad()
def test_bfloat16_inference_is_close_to_float32():
    torch.manual_seed(0)
    model, images = HLG(**TINY, num_classes=4).eval(), torch.randn(4, 3, 96, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(images)
    assert output.dtype == torch.bfloat16
    assert (output.float() - model(images)).norm() < 0.05 * output.float().norm()


@pytest.mark.usefixtures("bfloat16")
def test_bfloat16_training_is_as_exact_as_the_library_allows(monkeypatch):
    torch.manual_seed(0)
    model, images = HLG(**TINY, num_classes=4), torch.randn(4, 3, 96, 64)

    def logits_and_gradients(enabled):
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            logits = model(images).float()
        logits.square().mean().backward()
        return torch.cat([logits.detach().flatten(), *(p.grad.flatten() for p in model.parameters())])

    exact, ours = logits_and_gradients(False), logits_and_gradients(True)
    monkeypatch.setattr("densevit.models.conv_norm.keeps_one_map", lambda norm, x: False)
    library = logits_and_gradients(True)  # few values per batch norm make bfloat16 itself rough here
    assert (ours - library).norm() < 0.05 * exact.norm()
    assert (ours - exact).norm() < 1.05 * (library - exact).norm()


@torch.no_grad()
def test_a_model_all_in_bfloat16_runs():
    model = HLG(**TINY, num_classes=4).eval().bfloat16()
    assert torch.isfinite(model(torch.randn(2, 3, 65, 96).bfloat16())).all()


@torch.no_grad()
def test_values_kept_in_inference_follow_the_weights_and_stay_few():
    torch.manual_seed(0)
    model, other = HLG(**TINY, num_classes=4).eval(), HLG(**TINY, num_classes=4).eval()
    images = torch.randn(1, 3, 64, 96)
    model(images)
    model.load_state_dict(other.state_dict())
    torch.testing.assert_close(model(images), other(images))
    for side in range(32, 320, 32):
        model(torch.randn(1, 3, 64, side))
    stores = [m._tables for m in model.modules() if hasattr(m, "_tables")]
    assert max(len(store._entries) for store in stores) == 4
    assert [key for key in model.state_dict() if "_tables" in key or "_folded" in key] == []


@torch.no_grad()
def test_inference_leaves_the_input_alone_and_the_batch_has_no_influence():
    torch.manual_seed(0)
    model = HLG(**TINY, features_only=True).eval()
    images = torch.randn(3, 3, 224, 160)
    before = images.clone()
    together = model(images)
    assert torch.equal(images, before)
    for index in range(3):
        for whole, single in zip(together, model(images[index : index + 1]), strict=True):
            torch.testing.assert_close(whole[index], single[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"out_indices": (0, 4), "features_only": True}, "stages 0 to 3"),
        ({"dilation": 0}, "whole number of at least 1"),
        ({"dilation": "side"}, "'side'"),
        ({"window_embedding": "mean"}, "choose one of: avgpool, dwconv, maxpool"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        HLG(**TINY, **arguments)


def test_unknown_variant_names_the_near_match():
    with pytest.raises(UserError, match="did you mean 'hlg_small'"):
        create_hlg("hlg_smal")


def test_gradient_checkpointing_changes_neither_gradients_nor_statistics():
    torch.manual_seed(0)
    plain = HLG(**TINY, num_classes=4).train()
    kept = copy.deepcopy(plain)
    kept.set_grad_checkpointing()
    images = torch.randn(2, 3, 64, 96)
    for _ in range(2):
        for model in (plain, kept):
            model(images).square().sum().backward()
    for (name, a), b in zip(plain.named_parameters(), kept.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), name
    for (name, a), b in zip(plain.named_buffers(), kept.buffers(), strict=True):
        assert torch.equal(a, b), name


@torch.no_grad()
def test_compiled_without_breaks_for_one_size_after_another():
    torch._dynamo.reset()
    model = HLG(**{**TINY, "depths": (1, 1, 1, 1)}, num_classes=4).eval()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    for batch, height, width in ((2, 32, 32), (2, 48, 32), (3, 48, 41)):
        images = torch.randn(batch, 3, height, width)
        torch.testing.assert_close(compiled(images), model(images))


@torch.no_grad()
def test_exported_for_any_batch_and_traced():
    model, images = HLG(**{**TINY, "depths": (1, 1, 1, 1)}, num_classes=4).eval(), torch.randn(2, 3, 48, 32)
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(model, (images,), dynamic_shapes=({0: batch},)).module()
    more = torch.randn(5, 3, 48, 32)
    torch.testing.assert_close(exported(more), model(more))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # a trace holds for one size, as it says
        torch.testing.assert_close(torch.jit.trace(model, images)(images), model(images))


def test_training_on_one_value_per_channel_is_refused():
    model = HLG(**TINY, num_classes=4).train()
    with pytest.raises(UserError, match="batch_size of at least 2"):
        model(torch.randn(1, 3, 32, 32))
    assert all(torch.isfinite(buffer).all() for buffer in model.buffers())


def test_values_are_not_kept_for_parameters_made_in_inference_mode():
    with torch.inference_mode():
        model, images = HLG(**TINY, num_classes=4).eval(), torch.randn(1, 3, 64, 96)
        model(images)
        for parameter in model.parameters():
            parameter.mul_(1.3)
        again = model(images)
        assert torch.equal(again, model.eval()(images))


BAD_ARGUMENTS = [
    {"window_size": 0}, {"window_size": "a"}, {"window_size": 2.5}, {"depths": (1, 1, 1)}, {"depths": (1, 0, 1, 1)},
    {"embed_dims": 5}, {"embed_dims": (8, 16, 24, 64)}, {"num_heads": (3, 2, 4, 8)}, {"num_heads": "abcd"},
    {"dilation": 2.5}, {"dilation": True}, {"dilation": ["a", 1, 2]}, {"dilation": "full"}, {"drop_rate": 2},
    {"drop_path_rate": 1.5}, {"in_chans": 0}, {"mlp_ratio": 0}, {"num_classes": -1},
    {"features_only": True, "out_indices": (4,)}, {"features_only": True, "out_indices": 5},
]  # fmt: skip


@pytest.mark.parametrize("argument", BAD_ARGUMENTS, ids=str)
def test_arguments_out_of_range(argument):
    name = [*argument][-1]
    with pytest.raises(UserError, match=name):
        HLG(**{**TINY, **argument})


@pytest.mark.parametrize("flag", ["position_bias", "squeeze_excite", "features_only", "grad_checkpointing"])
def test_flags_are_true_or_false(flag):
    with pytest.raises(UserError, match=f"{flag} must be true or false, not 'off'"):
        create_hlg("hlg_mobile", **{flag: "off"})


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(3, 32, 32), "must be"),
        (torch.zeros(1, 3, 0, 32), "no pixel"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "uint8"),
    ],
)
def test_what_are_no_images(images, message):
    with pytest.raises(UserError, match=message):
        create_hlg("hlg_mobile")(images)


def test_stages_that_nothing_is_read_of_are_not_made():
    model = create_hlg("hlg_mobile", features_only=True, out_indices=(0, 1))
    sum(x.sum() for x in model(torch.randn(2, 3, 64, 64))).backward()
    assert not [name for name, weight in model.named_parameters() if weight.grad is None]
    with pytest.raises(UserError, match="out_indices"):
        create_hlg("hlg_mobile", features_only=True, out_indices=[1.0])


def test_images_of_other_channels_and_an_empty_batch():
    model = HLG(**TINY, num_classes=4, in_chans=4).eval()
    with pytest.raises(UserError, match="in_chans=4"):
        model(torch.randn(1, 3, 32, 32))
    with pytest.raises(UserError, match="no image"):
        model(torch.randn(0, 4, 64, 64))
