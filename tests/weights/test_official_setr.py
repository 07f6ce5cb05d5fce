"""Checkpoints of the authors' code, written here in their naming, against a forward written out on those names."""

import pytest
import timm
import torch
import torch.nn.functional as F

from densevit.models.catalog import create_model
from densevit.weights.load import load_encoder, load_segmenter

K, C, D = 5, 48, 16
SMALL = {"depth": 12, "embed_dim": C, "num_heads": 3}
LEVELS = (2, 3, 4, 5)


def create(name, **arguments):
    return create_model(name, num_classes=K, image_size=64, channels=D, encoder_args=SMALL, **arguments).eval()


class Checkpoint(dict):
    """A state dict that draws what is asked for: one generator, so that no two tensors are alike."""

    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def draw(self, name, *shape):
        self[name] = torch.randn(*shape, generator=self.generator) / max(shape[-1], 4) ** 0.5

    def conv(self, name, out, into, k, *, bias):
        self.draw(f"{name}.weight", out, into, k, k)
        if bias:
            self.draw(f"{name}.bias", out)

    def norm(self, name, channels, *, running=True):
        for part in ("weight", "bias", *(("running_mean",) if running else ())):
            self.draw(f"{name}.{part}", channels)
        if running:
            self[f"{name}.running_var"] = torch.rand(channels, generator=self.generator) + 0.5
            self[f"{name}.num_batches_tracked"] = torch.tensor(7)

    def backbone(self):
        self.draw("backbone.cls_token", 1, 1, C)
        self.draw("backbone.pos_embed", 1, 17, C)
        self.conv("backbone.patch_embed.proj", C, 3, 16, bias=True)
        for i in range(12):
            block = f"backbone.blocks.{i}."
            for norm in ("norm1", "norm2"):
                self.norm(block + norm, C, running=False)
            for name, out, into in (
                ("attn.qkv", 3 * C, C),
                ("attn.proj", C, C),
                ("mlp.fc1", 4 * C, C),
                ("mlp.fc2", C, 4 * C),
            ):
                self.draw(f"{block}{name}.weight", out, into)
                self.draw(f"{block}{name}.bias", out)
        return self

    def up_head(self, name, num_convs, k):
        self.norm(f"{name}.norm", C, running=False)
        self.conv(f"{name}.conv_seg", K, 512, 1, bias=True)  # never called
        for i in range(num_convs):
            self.conv(f"{name}.conv_{i}", D, D if i else C, k, bias=True)
            self.norm(f"{name}.syncbn_fc_{i}", D)
        self.conv(f"{name}.conv_{num_convs}", K, D, 1, bias=True)

    def mla(self):
        for i, level in enumerate(LEVELS):
            self.norm(f"backbone.norm_{i}", C, running=False)
            self.conv(f"backbone.mla.mla_p{level}_1x1.0", D, C, 1, bias=False)
            self.norm(f"backbone.mla.mla_p{level}_1x1.1", D)
            self.conv(f"backbone.mla.mla_p{level}.0", D, D, 3, bias=False)
            self.norm(f"backbone.mla.mla_p{level}.1", D)
            head = f"decode_head.mlahead.head{level}"
            self.conv(f"{head}.0", D // 2, D, 3, bias=False)
            self.norm(f"{head}.1", D // 2)
            self.conv(f"{head}.3", D // 2, D // 2, 3, bias=False)
            self.norm(f"{head}.4", D // 2)
            self.conv(f"auxiliary_head.{i}.aux", K, D, 1, bias=False)
            self.conv(f"auxiliary_head.{i}.conv_seg", K, 512, 1, bias=True)
        self.conv("decode_head.cls", K, 2 * D, 3, bias=True)
        self.conv("decode_head.conv_seg", K, 512, 1, bias=True)
        return self

    def save(self, path):
        torch.save({"meta": {"epoch": 1, "CLASSES": ("road", "sky")}, "state_dict": dict(self)}, path)
        return path

    # The forward, on the names above.

    def blocks(self, images, *, class_token):
        """Outputs of the twelve blocks as maps; timm's own blocks, which the authors' are named after."""
        vit = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=0, **SMALL).eval()
        own = {n.removeprefix("backbone."): t for n, t in self.items() if n.startswith("backbone.")}
        vit.load_state_dict({name: own.get(name, tensor) for name, tensor in vit.state_dict().items()})
        x = vit.patch_embed(images)
        x = torch.cat([vit.cls_token.expand(len(x), -1, -1), x], dim=1) + vit.pos_embed
        x = x if class_token else x[:, 1:]
        maps = []
        for block in vit.blocks:
            x = block(x)
            maps.append(x[:, -16:].transpose(1, 2).unflatten(2, (4, 4)))
        return maps

    def layer_norm(self, name, x):
        x = F.layer_norm(x.movedim(1, -1), (C,), self[f"{name}.weight"], self[f"{name}.bias"], 1e-6)
        return x.movedim(-1, 1)

    def conv_norm_relu(self, conv, norm, x):
        weight = self[f"{conv}.weight"]
        x = F.conv2d(x, weight, self.get(f"{conv}.bias"), padding=weight.shape[-1] // 2)
        statistics = (self[f"{norm}.running_mean"], self[f"{norm}.running_var"])
        return F.batch_norm(x, *statistics, self[f"{norm}.weight"], self[f"{norm}.bias"]).relu()

    def run_up_head(self, name, x, num_convs):
        x = self.layer_norm(f"{name}.norm", x)
        for i in range(num_convs):
            x = self.conv_norm_relu(f"{name}.conv_{i}", f"{name}.syncbn_fc_{i}", x)
            if i < num_convs - 1:
                x = F.interpolate(x, scale_factor=2, mode="bilinear")
        x = F.conv2d(x, self[f"{name}.conv_{num_convs}.weight"], self[f"{name}.conv_{num_convs}.bias"])
        return F.interpolate(x, size=(64, 64), mode="bilinear")

    def run_mla(self, maps):
        """Logits, and the auxiliary heads'."""
        sums, above = {}, 0
        for i, level in reversed(list(enumerate(LEVELS))):
            x = self.layer_norm(f"backbone.norm_{i}", maps[3 * i + 2])
            name = f"backbone.mla.mla_p{level}_1x1"
            above = self.conv_norm_relu(f"{name}.0", f"{name}.1", x) + above
            sums[level] = self.conv_norm_relu(f"backbone.mla.mla_p{level}.0", f"backbone.mla.mla_p{level}.1", above)
        ups = []
        for level in LEVELS:
            head = f"decode_head.mlahead.head{level}"
            x = self.conv_norm_relu(f"{head}.0", f"{head}.1", sums[level])
            x = self.conv_norm_relu(f"{head}.3", f"{head}.4", x)
            ups.append(F.interpolate(x, size=(16, 16), mode="bilinear", align_corners=True))
        x = F.conv2d(torch.cat(ups, dim=1), self["decode_head.cls.weight"], self["decode_head.cls.bias"], padding=1)
        aux = [F.conv2d(sums[level], self[f"auxiliary_head.{i}.aux.weight"]) for i, level in enumerate(LEVELS)]
        return [F.interpolate(y, size=(64, 64), mode="bilinear") for y in (x, *aux)]


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 64)


def assert_close(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_pup(tmp_path, images):
    checkpoint = Checkpoint().backbone()
    checkpoint.up_head("decode_head", 4, 3)
    for i in range(4):
        checkpoint.up_head(f"auxiliary_head.{i}", 1, 3)
    model = create("setr_pup_vit_base")
    report = load_segmenter(model, checkpoint.save(tmp_path / "SETR PUP.pth"))
    maps = checkpoint.blocks(images, class_token=True)
    aux = [checkpoint.run_up_head(f"auxiliary_head.{i}", maps[b - 1], 1) for i, b in enumerate((5, 8, 10, 12))]
    assert_close(model.forward_all(images), [checkpoint.run_up_head("decode_head", maps[-1], 4), *aux])
    assert (report.missing, report.resized) == ([], [])
    assert {name.split(".")[-2] for name in report.unexpected} == {"conv_seg"}
    assert "(official SETR)" in report.source


@torch.no_grad()
def test_naive(tmp_path, images):
    checkpoint = Checkpoint().backbone()
    checkpoint.up_head("decode_head", 1, 1)
    for i in range(3):
        checkpoint.up_head(f"auxiliary_head.{i}", 1, 1)
    model = create("setr_naive_vit_base")
    load_segmenter(model, checkpoint.save(tmp_path / "naive.pth"))
    maps = checkpoint.blocks(images, class_token=True)
    aux = [checkpoint.run_up_head(f"auxiliary_head.{i}", maps[b - 1], 1) for i, b in enumerate((3, 6, 9))]
    assert_close(model.forward_all(images), [checkpoint.run_up_head("decode_head", maps[-1], 1), *aux])


@torch.no_grad()
def test_mla(tmp_path, images):
    checkpoint = Checkpoint().backbone().mla()
    model = create("setr_mla_vit_base", decoder_args={"classifier_kernel_size": 3})
    report = load_segmenter(model, checkpoint.save(tmp_path / "mla.pth"))
    assert_close(model.forward_all(images), checkpoint.run_mla(checkpoint.blocks(images, class_token=False)))
    assert report.missing == []


@torch.no_grad()
def test_encoder_alone(tmp_path, images):
    checkpoint = Checkpoint().backbone().mla()
    model = create("setr_naive_vit_base")
    report = load_encoder(model, checkpoint.save(tmp_path / "mla.pth"))
    expected = checkpoint.blocks(images, class_token=True)
    assert_close(model.encoder(images), [expected[i - 1] for i in model.encoder.out_blocks])
    assert "decoder.classifier.weight" in report.unexpected
