"""A compiled stem in inference is one operator that takes the batch in parts; one that is not as it was made is not."""

import pytest
import torch
from torch import nn

from densevit.kernels import library
from densevit.models import infer_blocks
from densevit.models.hlg import HLG

pytestmark = pytest.mark.skipif(library.library() is None, reason="no compiler for the kernels")


def model_and_images():
    torch.manual_seed(0)
    model = HLG(embed_dims=(16, 16, 16, 16), num_heads=(1, 1, 1, 1), depths=(1, 1, 1, 1), num_classes=5).eval()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.running_var, 0.5, 2)
            nn.init.normal_(norm.running_mean)
    return model, torch.randn(3, 3, 36, 40)


def compiled_stem(model, images):
    code = []

    def backend(graph, inputs):
        code.append(graph.code)
        return graph.forward

    torch._dynamo.reset()
    with torch.no_grad():
        output = torch.compile(model._stemmed, backend=backend, fullgraph=True)(images)
    return output, " ".join(code)


@pytest.mark.parametrize("elements", [1, 2**20])
def test_the_stem(elements, monkeypatch):
    monkeypatch.setattr(infer_blocks, "CACHED_ELEMENTS", elements)
    model, images = model_and_images()
    images = images.permute(0, 2, 3, 1)
    with torch.no_grad():
        expected = model._stemmed(images)
    output, code = compiled_stem(model, images)
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)
    assert "densevit.conv_norm_gelus" in code


def test_a_changed_stem_is_called():
    model, images = model_and_images()
    images = images.permute(0, 2, 3, 1)
    model.stem[0].conv = nn.Conv2d(3, 16, 3, stride=2, padding=2, dilation=2, bias=False)
    with torch.no_grad():
        expected = model._stemmed(images)
    output, code = compiled_stem(model, images)
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)
    assert "densevit.conv_norm_gelus" not in code
