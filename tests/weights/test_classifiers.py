"""Encoders from classifiers' files in every naming, written here from small timm models, against timm's own forward."""

import re

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from densevit.errors import UserError
from densevit.models.catalog import create_model
from densevit.models.encoders import create_vit
from densevit.models.vit import ViTEncoder
from densevit.weights.load import load_encoder

SMALL = {"depth": 3, "embed_dim": 48, "num_heads": 3}


def randomise(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    return model.eval()


def timm_model(name="vit_tiny_patch16_224", **arguments):
    return randomise(timm.create_model(name, img_size=64, num_classes=7, **SMALL | arguments))


def fresh_encoder(name="vit_tiny_patch16_224", size=(64, 64), **arguments):
    vit = create_vit(name, image_size=size, encoder_args=SMALL, **arguments)
    return ViTEncoder(randomise(vit, seed=1), out_blocks=(1, 3)).eval()


def assert_same_features(encoder, reference):
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = reference.forward_intermediates(images, indices=[0, 2], intermediates_only=True)
        for ours, theirs in zip(encoder(images), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def jax_arrays(model):
    """A timm ViT in the naming and layout of the original files."""
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    C, A = model.embed_dim, model.blocks[0].attn.num_heads
    arrays = {
        "cls": state["cls_token"],
        "Transformer/posembed_input/pos_embedding": state["pos_embed"],
        "embedding/kernel": state["patch_embed.proj.weight"].permute(2, 3, 1, 0),
        "embedding/bias": state["patch_embed.proj.bias"],
        "Transformer/encoder_norm/scale": state["norm.weight"],
        "Transformer/encoder_norm/bias": state["norm.bias"],
        "head/kernel": state["head.weight"].t(),
        "head/bias": state["head.bias"],
        "pre_logits/kernel": torch.zeros(C, C),
    }
    for i in range(len(model.blocks)):
        ours, theirs = f"blocks.{i}.", f"Transformer/encoderblock_{i}/"
        attention = theirs + "MultiHeadDotProductAttention_1/"
        for j, part in enumerate(("query", "key", "value")):
            weight = state[ours + "attn.qkv.weight"].chunk(3)[j]
            arrays[f"{attention}{part}/kernel"] = weight.t().reshape(C, A, C // A)
            arrays[f"{attention}{part}/bias"] = state[ours + "attn.qkv.bias"].chunk(3)[j].reshape(A, C // A)
        arrays[f"{attention}out/kernel"] = state[ours + "attn.proj.weight"].t().reshape(A, C // A, C)
        arrays[f"{attention}out/bias"] = state[ours + "attn.proj.bias"]
        for old, new in (("norm1", "LayerNorm_0"), ("norm2", "LayerNorm_2")):
            arrays[f"{theirs}{new}/scale"] = state[f"{ours}{old}.weight"]
            arrays[f"{theirs}{new}/bias"] = state[f"{ours}{old}.bias"]
        for j in (0, 1):
            arrays[f"{theirs}MlpBlock_3/Dense_{j}/kernel"] = state[f"{ours}mlp.fc{j + 1}.weight"].t()
            arrays[f"{theirs}MlpBlock_3/Dense_{j}/bias"] = state[f"{ours}mlp.fc{j + 1}.bias"]
    return {name: tensor.contiguous().numpy() for name, tensor in arrays.items()}


@pytest.mark.parametrize("prefix", ["", "opt/target/"])
def test_original_vit_npz(tmp_path, prefix):
    model, path = timm_model(), tmp_path / "ViT-S 16.npz"
    np.savez(path, **{prefix + name: array for name, array in jax_arrays(model).items()})
    encoder = fresh_encoder()
    report = load_encoder(encoder, path)
    assert_same_features(encoder, model)
    assert (report.missing, report.resized) == ([], [])
    assert set(report.unexpected) == {"head/kernel", "head/bias", "pre_logits/kernel", "norm.weight", "norm.bias"}

    by_timm = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=7, **SMALL)
    by_timm.load_pretrained(str(path))  # timm's reader agrees that the file is one
    assert_same_features(encoder, by_timm.eval())


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
def test_timm_pth(tmp_path, wrapper):
    model, path = timm_model(), tmp_path / "jx_vit.pth"
    state = model.state_dict()
    torch.save(state if wrapper is None else {wrapper: state, "epoch": 3}, path)
    encoder = fresh_encoder()
    report = load_encoder(encoder, path)
    assert_same_features(encoder, model)
    assert len(report.matched) == len(encoder.state_dict())
    assert report.unexpected == ["norm.weight", "norm.bias", "head.weight", "head.bias"]


def test_timm_safetensors_from_data_parallel(tmp_path):
    model, path = timm_model(), tmp_path / "model.safetensors"
    save_file({f"module.{name}": tensor for name, tensor in model.state_dict().items()}, path)
    encoder = fresh_encoder()
    load_encoder(encoder, path)
    assert_same_features(encoder, model)


def test_deit_distilled(tmp_path):
    name = "deit_tiny_distilled_patch16_224"
    model, path = timm_model(name), tmp_path / "deit.pth"
    torch.save({"model": model.state_dict()}, path)
    encoder = fresh_encoder(name)
    report = load_encoder(encoder, path)
    assert_same_features(encoder, model)
    assert report.missing == []
    assert {"head.weight", "head_dist.weight"} <= set(report.unexpected)


def test_deit_distilled_in_a_plain_vit_gives_the_class_row_and_the_patches(tmp_path):
    """The official code's way: positions of the patches and row 0; the distillation token and its row are dropped."""
    model, path = timm_model("deit_tiny_distilled_patch16_224"), tmp_path / "deit.pth"
    torch.save({"model": model.state_dict()}, path)
    encoder = fresh_encoder()
    report = load_encoder(encoder, path)
    position = torch.cat([model.pos_embed[:, :1], model.pos_embed[:, 2:]], dim=1)
    assert torch.equal(encoder.vit.pos_embed, position)
    assert torch.equal(encoder.vit.cls_token, model.cls_token)
    assert report.resized == ["vit.pos_embed (1, 18, 48) -> (1, 17, 48)"]
    assert "vit.dist_token" in report.unexpected


def test_plain_vit_in_a_distilled_encoder_keeps_its_distillation_token(tmp_path):
    model, path = timm_model(), tmp_path / "vit.pth"
    torch.save(model.state_dict(), path)
    encoder = fresh_encoder("deit_tiny_distilled_patch16_224")
    before = encoder.vit.pos_embed[:, 1].clone()
    report = load_encoder(encoder, path)
    assert report.missing == ["vit.dist_token"]
    assert torch.equal(encoder.vit.pos_embed[:, 0], model.pos_embed[:, 0])
    assert torch.equal(encoder.vit.pos_embed[:, 1], before)
    assert torch.equal(encoder.vit.pos_embed[:, 2:], model.pos_embed[:, 1:])


def test_deit_3_layer_scales_by_their_old_names(tmp_path):
    name = "deit3_small_patch16_224"
    model, path = timm_model(name), tmp_path / "deit3.pth"
    state = {re.sub(r"ls(\d)\.gamma", r"gamma_\1", key): tensor for key, tensor in model.state_dict().items()}
    assert "blocks.0.gamma_1" in state
    torch.save(state, path)
    encoder = fresh_encoder(name)
    assert load_encoder(encoder, path).missing == []
    assert_same_features(encoder, model)


def test_beit(tmp_path):
    name = "beit_base_patch16_224"
    model, path = timm_model(name), tmp_path / "beit.pth"
    state = dict(model.state_dict())
    state |= {f"blocks.{i}.attn.relative_position_index": torch.zeros(17, 17) for i in range(3)}  # in the old files
    torch.save({"module": state}, path)
    encoder = fresh_encoder(name)
    report = load_encoder(encoder, path)
    assert_same_features(encoder, model)
    assert (report.missing, report.resized) == ([], [])


def test_beit_pretraining_shares_one_table(tmp_path):
    name = "beit_base_patch16_224"
    model, path = timm_model(name), tmp_path / "beit.pth"
    state = {key: tensor for key, tensor in model.state_dict().items() if "relative" not in key}
    shared = torch.randn(7 * 7 + 3, 3)
    torch.save(state | {"rel_pos_bias.relative_position_bias_table": shared}, path)
    encoder = fresh_encoder(name)
    load_encoder(encoder, path)
    assert all(torch.equal(table, shared) for table in encoder.relative_bias.tables)


def test_beit_at_another_size(tmp_path):
    name = "beit_base_patch16_224"
    model, path = timm_model(name), tmp_path / "beit.pth"
    torch.save(model.state_dict(), path)
    encoder = fresh_encoder(name, size=(96, 32))
    report = load_encoder(encoder, path)
    assert report.resized[0] == "relative_bias.tables.0 (52, 3) -> (36, 3)"
    native = ViTEncoder(model, out_blocks=(1, 3)).eval()
    images = torch.randn(1, 3, 96, 32)
    with torch.no_grad():  # tables resized at loading or at run time: the same
        torch.testing.assert_close(encoder(images), native(images))


def huggingface_state(model):
    """A timm ViT in the transformers library's naming."""
    table = [
        (r"cls_token", "embeddings.cls_token"),
        (r"dist_token", "embeddings.distillation_token"),
        (r"pos_embed", "embeddings.position_embeddings"),
        (r"patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
        (r"blocks\.(\d+)\.norm1\.", r"encoder.layer.\1.layernorm_before."),
        (r"blocks\.(\d+)\.norm2\.", r"encoder.layer.\1.layernorm_after."),
        (r"blocks\.(\d+)\.attn\.proj\.", r"encoder.layer.\1.attention.output.dense."),
        (r"blocks\.(\d+)\.mlp\.fc1\.", r"encoder.layer.\1.intermediate.dense."),
        (r"blocks\.(\d+)\.mlp\.fc2\.", r"encoder.layer.\1.output.dense."),
        (r"norm\.", "layernorm."),
        (r"head\.", "classifier."),
    ]
    state = {}
    for name, tensor in model.state_dict().items():
        match = re.fullmatch(r"blocks\.(\d+)\.attn\.qkv\.(\w+)", name)
        if match:
            for part, piece in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                state[f"vit.encoder.layer.{match[1]}.attention.attention.{part}.{match[2]}"] = piece.clone()
            continue
        new = next(re.sub("^" + old, to, name) for old, to in table if re.match(old, name))
        state[new if new.startswith("classifier") else f"vit.{new}"] = tensor
    return state


def test_transformers_vit(tmp_path):
    model, path = timm_model(), tmp_path / "model.safetensors"
    save_file(huggingface_state(model), path)
    encoder = fresh_encoder()
    report = load_encoder(encoder, path)
    assert_same_features(encoder, model)
    assert report.missing == []
    assert "(transformers)" in report.source


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_positions_follow_the_encoders_grid(tmp_path, mode):
    model, path = timm_model(), tmp_path / "vit.pth"
    torch.save(model.state_dict(), path)
    encoder = fresh_encoder(size=(48, 112))
    report = load_encoder(encoder, path, mode=mode)
    assert report.resized == ["vit.pos_embed (1, 17, 48) -> (1, 22, 48)"]
    expected = timm.layers.resample_abs_pos_embed(
        model.pos_embed, (3, 7), (4, 4), 1, interpolation=mode, antialias=mode == "bicubic"
    )
    torch.testing.assert_close(encoder.vit.pos_embed, expected)


def test_bands_and_patch_are_adapted(tmp_path):
    model, path = timm_model(), tmp_path / "vit.pth"
    torch.save(model.state_dict(), path)
    encoder = fresh_encoder(in_channels=1)
    report = load_encoder(encoder, path)
    kernel = model.patch_embed.proj.weight
    torch.testing.assert_close(encoder.vit.patch_embed.proj.weight, kernel.sum(dim=1, keepdim=True))
    assert report.resized == ["vit.patch_embed.proj.weight (48, 3, 16, 16) -> (48, 1, 16, 16)"]
    vit = create_vit("vit_tiny_patch16_224", image_size=(32, 32), encoder_args=SMALL | {"patch_size": 8})
    encoder = ViTEncoder(vit, out_blocks=(3,))
    load_encoder(encoder, path)
    assert encoder.vit.patch_embed.proj.weight.shape == (48, 3, 8, 8)


def test_a_segmenter_takes_them_into_its_encoder(tmp_path):
    model, path = timm_model(), tmp_path / "vit.pth"
    torch.save(model.state_dict(), path)
    segmenter = create_model("setr_naive_vit_tiny", num_classes=5, image_size=64, encoder_args=SMALL)
    load_encoder(segmenter, path)
    assert torch.equal(segmenter.encoder.vit.blocks[2].mlp.fc2.weight, model.blocks[2].mlp.fc2.weight)


def test_blocks_past_the_last_one_used_are_listed(tmp_path):
    model, path = timm_model(), tmp_path / "vit.pth"
    torch.save(model.state_dict(), path)
    vit = create_vit("vit_tiny_patch16_224", image_size=(64, 64), encoder_args=SMALL)
    report = load_encoder(ViTEncoder(vit, out_blocks=(1, 2)), path)
    assert report.missing == []
    assert "blocks.2.attn.qkv.weight" in report.unexpected


def test_timm_names_without_weights_or_network(monkeypatch):
    encoder = fresh_encoder()
    with pytest.raises(UserError, match="unknown encoder 'vit_tniy_patch16_224'"):
        load_encoder(encoder, "timm:vit_tniy_patch16_224")
    monkeypatch.setattr(timm, "create_model", _no_network)
    with pytest.raises(UserError, match=r"could not provide weights for 'vit_tiny_patch16_224'.*no network"):
        load_encoder(encoder, "vit_tiny_patch16_224")
    with pytest.raises(UserError, match=r"'hf-hub:user/model' \(no network\)"):
        load_encoder(encoder, "hf-hub:user/model")


def _no_network(*args, **kwargs):
    raise OSError("no network\nmore lines")


def test_timm_names_with_weights(monkeypatch):
    model = timm_model()
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained, **kwargs: model)
    encoder = fresh_encoder()
    report = load_encoder(encoder, "timm:vit_tiny_patch16_224")
    assert report.source == "vit_tiny_patch16_224 (timm)"
    assert_same_features(encoder, model)
