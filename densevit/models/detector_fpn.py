"""The feature pyramids of the detectors (Lin et al., 2017): torchvision's, on a `PyramidEncoder`.

Level names are those of the papers: C_i of the encoder and P_i of the pyramid have stride 2 ** i.
"""

from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from densevit.models.pyramid import PyramidEncoder

RETINANET_STRIDES = (8, 16, 32, 64, 128)
MASK_RCNN_STRIDES = (4, 8, 16, 32, 64)


def retinanet_fpn(encoder: PyramidEncoder, channels: int) -> FeaturePyramidNetwork:
    """P3 to P5 from C3 to C5; P6 from C5 and P7 from P6 by 3x3 convolutions of stride 2."""
    last = encoder.channels[-1]
    extra = LastLevelP6P7(last, channels)
    extra.use_P5 = False  # torchvision would take P5 for a C5 of the same width
    return FeaturePyramidNetwork(list(encoder.channels), channels, extra)


def mask_rcnn_fpn(encoder: PyramidEncoder, channels: int) -> FeaturePyramidNetwork:
    """P2 to P5 from C2 to C5; P6 is every second value of P5."""
    return FeaturePyramidNetwork(list(encoder.channels), channels, LastLevelMaxPool())
