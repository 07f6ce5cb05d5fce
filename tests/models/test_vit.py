"""The encoder against timm's own forward, its prefix tokens, sizes, bands, and memory savers."""

import copy

import pytest
import timm
import torch
from timm.layers import resample_abs_pos_embed
from torch import nn

from densevit.errors import UserError
from densevit.models.encoders import create_vit
from densevit.models.vit import ViTEncoder, tokens_to_map

# A name, timm arguments that make it small, and a native, mostly non-square size.
SMALL = {"depth": 3, "embed_dim": 48, "num_heads": 3}
ENCODERS = {
    "vit": ("vit_tiny_patch16_224", {}, (64, 96)),
    "clip": ("vit_base_patch16_clip_224", {}, (64, 96)),
    "deit distilled": ("deit_tiny_distilled_patch16_224", {}, (64, 96)),
    "deit 3": ("deit3_small_patch16_224", {}, (64, 96)),
    "beit": ("beit_base_patch16_224", {}, (64, 96)),
    "dinov2 with registers": ("vit_small_patch14_reg4_dinov2", {}, (56, 84)),
    "dinov3": ("vit_small_patch16_dinov3", {}, (64, 96)),
    "siglip": ("vit_base_patch16_siglip_224", {}, (64, 96)),
    "eva02": ("eva02_tiny_patch14_224", {}, (56, 56)),
    "mixed rotary": ("vit_small_patch16_rope_mixed_224", {}, (64, 96)),
}


def randomise(model: nn.Module) -> nn.Module:
    """Every parameter drawn anew: zero tokens, tables and layer scales would hide mistakes."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    return model


def build(kind, *, size=None, out_blocks=(1, 3), prefix_tokens="all", position_resize="bilinear", **arguments):
    name, own, native = ENCODERS[kind]
    vit = create_vit(name, image_size=size or native, encoder_args=SMALL | own, **arguments)
    randomise(vit)
    return ViTEncoder(vit, out_blocks=out_blocks, prefix_tokens=prefix_tokens, position_resize=position_resize).eval()


@pytest.mark.parametrize("kind", ENCODERS)
def test_features_equal_timms_at_the_native_size(kind):
    name, own, size = ENCODERS[kind]
    reference = randomise(timm.create_model(name, num_classes=0, img_size=size, **SMALL | own)).eval()
    encoder = ViTEncoder(copy.deepcopy(reference), out_blocks=(1, 3)).eval()
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        expected = reference.forward_intermediates(images, indices=[0, 2], intermediates_only=True)
        maps = encoder(images)
    assert len(maps) == 2
    for ours, theirs in zip(maps, expected, strict=True):
        assert ours.shape == theirs.shape
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["vit", "deit distilled", "dinov2 with registers", "dinov3", "siglip", "mixed rotary"])
def test_features_equal_timms_at_another_size(kind):
    name, own, native = ENCODERS[kind]
    args = SMALL | own | {"dynamic_img_size": True}
    reference = randomise(timm.create_model(name, num_classes=0, img_size=native, **args)).eval()
    encoder = ViTEncoder(copy.deepcopy(reference), out_blocks=(2,), position_resize="bicubic").eval()
    images = torch.randn(1, 3, 3 * encoder.patch_size[0], 5 * encoder.patch_size[1])
    with torch.no_grad():
        expected = reference.forward_intermediates(images, indices=[1], intermediates_only=True)
        torch.testing.assert_close(encoder(images)[0], expected[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ENCODERS)
def test_any_multiple_of_the_patch_runs_and_reaches_every_parameter(kind):
    encoder = build(kind, out_blocks=(1, 2, 3)).train()
    a, b = encoder.patch_size
    maps = encoder(torch.randn(2, 3, 3 * a, 7 * b))
    assert [tuple(m.shape) for m in maps] == [(2, 48, 3, 7)] * 3
    sum(m.square().mean() for m in maps).backward()
    unreached = [n for n, p in encoder.named_parameters() if p.requires_grad and p.grad is None]
    assert unreached == []


def test_blocks_and_heads_that_are_not_needed_are_dropped():
    encoder = build("vit", out_blocks=(1, 2))
    assert len(encoder.vit.blocks) == 2
    assert isinstance(encoder.vit.norm, nn.Identity)
    assert isinstance(encoder.vit.head, nn.Identity)


def manual_features(vit, images, num_prefix):
    """Two blocks of a ViT or DeiT by hand, with the first `num_prefix` of its prefix tokens and their positions."""
    x = vit.patch_embed.proj(images).flatten(2).transpose(1, 2)
    prefix = torch.cat([vit.cls_token, vit.dist_token], dim=1)[:, :num_prefix]
    prefix = (prefix + vit.pos_embed[:, :num_prefix]).expand(len(x), -1, -1)
    x = torch.cat([prefix, x + vit.pos_embed[:, 2:]], dim=1)
    for block in vit.blocks[:2]:
        x = block(x)
    return x[:, num_prefix:].transpose(1, 2).unflatten(2, (4, 6))


@pytest.mark.parametrize(("prefix_tokens", "num_prefix"), [("none", 0), ("class", 1), ("all", 2)])
def test_prefix_tokens_of_a_distilled_model(prefix_tokens, num_prefix):
    encoder = build("deit distilled", out_blocks=(2,), prefix_tokens=prefix_tokens)
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(encoder(images)[0], manual_features(encoder.vit, images, num_prefix))
    trainable = [name for name in ("cls_token", "dist_token") if getattr(encoder.vit, name).requires_grad]
    assert trainable == ["cls_token", "dist_token"][:num_prefix]


def test_prefix_tokens_must_fit_the_encoder():
    with pytest.raises(UserError, match="use 'all'"):
        build("beit", prefix_tokens="none")
    with pytest.raises(UserError, match="class token"):
        build("siglip", prefix_tokens="class")
    with pytest.raises(UserError, match=r"unknown prefix_tokens 'cls'.*did you mean 'class'"):
        build("vit", prefix_tokens="cls")


@pytest.mark.parametrize("out_blocks", [(), (0,), (4,), (2, 1), (1, 1)])
def test_out_blocks_must_be_increasing_and_exist(out_blocks):
    with pytest.raises(UserError, match=r"within 1\.\.3"):
        build("vit", out_blocks=out_blocks)


def test_image_sides_must_be_multiples_of_the_patch():
    with pytest.raises(UserError, match="65x96"):
        build("vit")(torch.randn(1, 3, 65, 96))


def test_tokens_to_map_is_row_major_and_a_view():
    tokens = torch.arange(12.0).reshape(1, 6, 2)  # two channels, 2 x 3 patches
    maps = tokens_to_map(tokens, (2, 3))
    assert maps[0, 0].tolist() == [[0, 2, 4], [6, 8, 10]]
    assert maps.data_ptr() == tokens.data_ptr()
    with pytest.raises(ValueError, match="prefix"):
        tokens_to_map(tokens, (3, 3))


def test_drop_path_acts_in_training_only():
    encoder = build("vit", drop_path_rate=0.9)
    images = torch.randn(4, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(encoder(images)[-1], encoder(images)[-1])
        encoder.train()
        assert not torch.equal(encoder(images)[-1], encoder(images)[-1])


@pytest.mark.parametrize("kind", ["vit", "beit", "dinov3", "mixed rotary"])
def test_checkpointing_gives_the_same_gradients(kind):
    plain = build(kind).train()
    saving = copy.deepcopy(plain)
    saving.set_grad_checkpointing()
    images = torch.randn(2, 3, 64, 96)
    gradients = []
    for encoder in (plain, saving):
        encoder(images)[-1].square().mean().backward()
        gradients.append({name: p.grad for name, p in encoder.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


def weights_file(tmp_path, name, **arguments):
    """A timm state dict on disk, and the overlay that makes timm take it for the model's pretrained weights."""
    model = randomise(timm.create_model(name, **arguments))
    path = tmp_path / "timm.pth"
    torch.save(model.state_dict(), path)
    return model, {"pretrained_cfg_overlay": {"file": str(path), "custom_load": False, "url": "", "hf_hub_id": ""}}


def test_pretrained_weights_are_adapted_to_four_bands(tmp_path):
    model, overlay = weights_file(tmp_path, "vit_tiny_patch16_224", **SMALL)
    vit = create_vit("vit_tiny_patch16_224", in_channels=4, pretrained=True, encoder_args=SMALL | overlay)
    kernel = vit.patch_embed.proj.weight
    assert kernel.shape == (48, 4, 16, 16)
    # timm repeats the colours and rescales, so that a grey image excites both convolutions alike
    torch.testing.assert_close(kernel.sum(dim=1), model.patch_embed.proj.weight.sum(dim=1) * _four_band_ratio(model))
    assert torch.equal(vit.blocks[0].attn.qkv.weight, model.blocks[0].attn.qkv.weight)
    maps = ViTEncoder(vit, out_blocks=(3,))(torch.randn(1, 4, 32, 64))
    assert maps[0].shape == (1, 48, 2, 4)


def _four_band_ratio(model):
    rgb = model.patch_embed.proj.weight
    four = torch.cat([rgb, rgb[:, :1]], dim=1) * 3 / 4
    return four.sum(dim=1) / rgb.sum(dim=1)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_pretrained_positions_are_resized_by_the_rule_asked_for(tmp_path, mode):
    model, overlay = weights_file(tmp_path, "deit_tiny_distilled_patch16_224", img_size=64, **SMALL)
    vit = create_vit(
        "deit_tiny_distilled_patch16_224",
        image_size=(90, 128),  # 90 is rounded up to 96
        pretrained=True,
        position_resize=mode,
        encoder_args=SMALL | overlay | {"img_size": 64},
    )
    assert vit.patch_embed.grid_size == (6, 8)
    expected = resample_abs_pos_embed(
        model.pos_embed, (6, 8), (4, 4), 2, interpolation=mode, antialias=mode == "bicubic"
    )
    torch.testing.assert_close(vit.pos_embed, expected)


def test_patch_14_and_a_fresh_grid():
    encoder = build("dinov2 with registers", size=(100, 56))
    assert encoder.patch_size == (14, 14)
    assert encoder.vit.patch_embed.grid_size == (8, 4)
    assert encoder(torch.randn(1, 3, 112, 56))[0].shape == (1, 48, 8, 4)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("vit_bse_patch16_224", {}, "did you mean"),
        ("resnet50", {}, "not a plain ViT"),
        ("vit_base_r50_s16_224", {}, "not a plain ViT"),
        ("vit_tiny_patch16_224.augreg_in21", {}, "did you mean 'augreg_in21k"),
        ("vit_tiny_patch16_224", {"widht": 3}, "widht"),
        ("vit_tiny_patch16_224", {"patch_drop_rate": 0.5}, "patch_drop_rate"),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_sentence(name, arguments, message):
    with pytest.raises(UserError, match=message):
        create_vit(name, encoder_args=arguments)


def test_weights_that_cannot_be_had_are_refused_in_one_sentence(monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no network\nand many more lines")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(UserError, match=r"^timm could not provide weights for 'vit_tiny_patch16_224' \(no network\)"):
        create_vit("vit_tiny_patch16_224", pretrained=True)
