"""Counts checked by hand and against the real model; the model itself stays untouched."""

import json

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from densevit.benchmark.measure import Measurement, measure_forward
from densevit.benchmark.profile import Profile, count_macs, count_parameters, meta_copy, profile_model
from densevit.errors import UserError
from densevit.models.catalog import create_model


class Toy(nn.Module):
    """A strided convolution, attention over its cells, and an auxiliary head that never runs at inference."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 4, stride=4)
        self.norm = nn.BatchNorm2d(8)
        self.auxiliary_heads = nn.ModuleList([nn.Conv2d(8, 5, 1)])

    def forward(self, images):
        cells = self.norm(self.conv(images)).flatten(2).transpose(1, 2)
        return nn.functional.scaled_dot_product_attention(cells, cells, cells)


def test_counts_by_hand():
    model = Toy()
    conv, norm, auxiliary = 3 * 8 * 16 + 8, 16, 8 * 5 + 5
    assert count_parameters(model) == (conv + norm, conv + norm + auxiliary)
    cells = (16 // 4) * (24 // 4)
    expected = cells * 8 * 3 * 16 + 2 * cells * cells * 8  # convolution, then q k^T and its product with v
    assert count_macs(model, image_size=(16, 24)) == expected


def test_counting_leaves_the_model_alone():
    model = Toy().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    count_macs(model, image_size=(16, 24))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_meta_copy_holds_no_data():
    model = create_model("setr_pup_vit_tiny", num_classes=5)
    shadow = meta_copy(model)
    assert {p.device.type for p in shadow.parameters()} == {"meta"}
    assert {b.device.type for b in shadow.buffers()} <= {"meta"}
    assert {p.device.type for p in model.parameters()} == {"cpu"}
    assert [p.shape for p in shadow.parameters()] == [p.shape for p in model.parameters()]


def test_macs_of_a_model_without_data_and_of_a_huge_image():
    with torch.device("meta"):
        model = create_model("setr_naive_vit_large", num_classes=150)
    # Table 3: 361 G (within 3 %). At 8192 x 8192 a real forward would need tens of GiB.
    assert count_macs(model, image_size=(512, 512)) / 1e9 == pytest.approx(362, rel=0.03)
    assert count_macs(model, image_size=(8192, 8192)) > 256 * count_macs(model, image_size=(512, 512))


def test_macs_equal_those_of_a_real_forward():
    model = create_model("setr_mla_vit_tiny", num_classes=7).eval()
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(torch.rand(1, 3, 64, 100))
    assert count_macs(model, image_size=(64, 100)) == counter.get_total_flops() // 2


def test_auxiliary_heads_are_counted_apart():
    with_heads = create_model("setr_pup_vit_tiny", num_classes=5)
    without = create_model("setr_pup_vit_tiny", num_classes=5, auxiliary=False)
    params, params_with_auxiliary = count_parameters(with_heads)
    assert params == count_parameters(without)[0] == count_parameters(without)[1]
    assert params_with_auxiliary > params
    assert count_macs(with_heads, image_size=(64, 96)) == count_macs(without, image_size=(64, 96))


def test_measurement():
    profile = profile_model(Toy(), image_size=(64, 96), batch_size=2, repeats=2)
    measurement = profile.measurement
    assert isinstance(measurement, Measurement)
    assert measurement.images_per_s == pytest.approx(2000 / measurement.latency_ms)
    assert measurement.peak_memory_mb >= measurement.forward_memory_mb >= 0
    assert json.loads(json.dumps(profile.to_dict()))["device"] == "cpu"


def test_peak_memory_sees_a_temporary():
    class Wasteful(nn.Module):
        def forward(self, images):
            return images.new_ones(64 * 2**20).sum() + images.sum()  # 256 MiB, freed at once

    measurement = measure_forward(Wasteful(), input_shape=(1, 3, 8, 8), device=torch.device("cpu"), repeats=1)
    assert measurement.forward_memory_mb > 200


def small_encoder(**args):
    return {"embed_dims": (16, 32, 64, 128), "depths": (1, 1, 1, 1), "num_heads": (1, 2, 4, 8), **args}


@pytest.mark.parametrize("name", ["retinanet", "mask_rcnn"])
def test_macs_of_detectors_equal_those_of_a_real_forward(name):
    """The real model is made to find as many objects as are counted."""
    args = {"channels": 16, "encoder_args": small_encoder()}
    if name == "mask_rcnn":
        args |= {"fc_channels": 32, "num_proposals": 60}
    model = create_model(f"{name}_hlg_tiny", num_classes=3, **args).eval()
    model.set_thresholds(score_threshold=0.0, nms_threshold=1.0, max_detections=20, mask_threshold=0.5)
    if name == "mask_rcnn":
        model.rpn.nms_thresh = 1.0
    images = torch.rand(1, 3, 70, 100)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        assert len(model(images)[0]["boxes"]) == 20
    assert count_macs(model, image_size=(70, 100)) == counter.get_total_flops() // 2


def test_counts_of_the_papers_detectors():
    """The usual numbers for ResNet-50 at 800 x 1280, which mmdetection counts: 239 G and 260 G."""
    for name, gmacs in [("retinanet_resnet50", 239), ("mask_rcnn_resnet50", 260)]:
        with torch.device("meta"):
            model = create_model(name, num_classes=80)
        assert count_macs(model, image_size=(800, 1280)) / 1e9 == pytest.approx(gmacs, rel=0.01)


def test_without_a_measurement_its_keys_are_none():
    values = Profile(image_size=(8, 9), params=1, params_with_auxiliary=2, macs=3).to_dict()
    assert values["macs"] == 3
    assert values["latency_ms"] is None
    assert values["peak_memory_mb"] is None


def test_no_repeats_is_refused():
    with pytest.raises(UserError, match="at least 1"):
        profile_model(Toy(), image_size=(16, 16), repeats=0)


def test_a_model_of_one_size_says_so():
    with torch.device("meta"):
        model = create_model("vit_tiny_patch16_224", num_classes=3)
    with pytest.raises(UserError, match=r"no images of 3 x 64 x 64.*224"):
        count_macs(model, image_size=(64, 64))
