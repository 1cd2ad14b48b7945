"""EfficientNet-Lite0 to 2 as bodies: EfficientNet without attention and with ReLU6, made for int8 on phones.

Source: Tan and Le, EfficientNet, 2019, arXiv 1905.11946; TensorFlow's repository tpu,
models/official/efficientnet/lite, for what Lite changes: no squeeze-and-excitation, ReLU6 for swish, stem and last
convolution of one width, first and last bottleneck never repeated more often.
"""

from __future__ import annotations

from torch.nn import functional

from .mobilenet import EPSILON, STEM_CHANNELS, MobileNet, repeat

# Kernel, expansion, channels, repeats, stride of the first. Source: arXiv 1905.11946, table 1.
_STAGES = (
    (3, 1, 16, 1, 1),
    (3, 6, 24, 2, 2),
    (5, 6, 40, 2, 2),
    (3, 6, 80, 3, 2),
    (5, 6, 112, 3, 1),
    (5, 6, 192, 4, 2),
    (3, 6, 320, 1, 1),
)
VARIANTS = {"lite0": (1.0, 1.0), "lite1": (1.0, 1.1), "lite2": (1.1, 1.2)}
"""Factors on the channels of every bottleneck, and on the repeats of all except the first and the last."""


class EfficientNetLite(MobileNet):
    """(N, 3, S, S) float32 images, already scaled -> (N, 1280, S/32, S/32) features; of "lite0", "lite1" or "lite2".

    Differs: no stochastic depth in training; BatchNorm's momentum as in `MobileNetV3Small`.
    """

    def __init__(self, variant: str) -> None:
        width, depth = VARIANTS[variant]
        super().__init__(
            repeat(_STAGES, width=width, depth=depth),
            stem_channels=STEM_CHANNELS,
            num_features=1280,
            activation=functional.relu6,
            epsilon=EPSILON,
            pads_like_tensorflow=True,
        )
