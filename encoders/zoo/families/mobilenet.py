"""Networks for phones: MobileNet V2, V3 and V4 (Sandler et al. 2018, Howard et al. 2019, Qin et al. 2024), SqueezeNet
(Iandola et al. 2016) and ShuffleNet V2 (Ma et al. 2018)."""

from __future__ import annotations

from stillsight.encoders.zoo.templates import features, timm, torchvision

ORDER = 20
V4 = {"stem": 2, "blocks.0": 4, "blocks.1": 8, "blocks.2": 16, "blocks.3": 32, "blocks.4": 32}
SHUFFLENET = {"conv1": 2, "stage2": 8, "stage3": 16, "stage4": 32, "conv5": 32}

ROWS = (
    features(
        "mobilenet_v2",
        "MobileNet",
        "MobileNet_V2_Weights.IMAGENET1K_V1",
        [2, 2, 4, 4, 8, 8, 8, 16, 16, 16, 16, 16, 16, 16, 32, 32, 32, 32, 32],
        6,
        "MobileNetV2 (Sandler et al. 2018), ImageNet-1k",
    ),
    features(
        "mobilenet_v3_small",
        "MobileNet",
        "MobileNet_V3_Small_Weights.IMAGENET1K_V1",
        [2, 4, 8, 8, 16, 16, 16, 16, 16, 32, 32, 32, 32],
        3,
        "MobileNetV3-Small (Howard et al. 2019), ImageNet-1k",
    ),
    features(
        "mobilenet_v3_large",
        "MobileNet",
        "MobileNet_V3_Large_Weights.IMAGENET1K_V1",
        [2, 2, 4, 4, 8, 8, 8, 16, 16, 16, 16, 16, 16, 32, 32, 32, 32],
        6,
        "MobileNetV3-Large (Howard et al. 2019), ImageNet-1k",
    ),
    # SqueezeNet does not pad its first convolution, and its pools round up: these are the smallest sides that pass.
    features(
        "squeezenet1_1",
        "SqueezeNet",
        "SqueezeNet1_1_Weights.IMAGENET1K_V1",
        [3, 3, 5, 5, 5, 9, 9, 9, 17, 17, 17, 17, 17],
        7,
        "SqueezeNet 1.1 (Iandola et al. 2016), ImageNet-1k",
    ),
    timm(
        "mobilenet_v4_small",
        "mobilenetv4_conv_small.e2400_r224_in1k",
        "MobileNet",
        V4,
        "blocks.1",
        "MobileNetV4-Conv-S (Qin et al. 2024), ImageNet-1k",
        licence="Apache-2.0",
    ),
    timm(
        "mobilenet_v4_medium",
        "mobilenetv4_conv_medium.e500_r256_in1k",
        "MobileNet",
        V4,
        "blocks.1",
        "MobileNetV4-Conv-M (Qin et al. 2024), ImageNet-1k",
        licence="Apache-2.0",
    ),
    torchvision(
        "shufflenet_v2_x1_0",
        "ShuffleNet",
        SHUFFLENET,
        "stage2",
        "ShuffleNet_V2_X1_0_Weights.IMAGENET1K_V1",
        "ShuffleNet V2 x1.0 (Ma et al. 2018), ImageNet-1k",
    ),
)
