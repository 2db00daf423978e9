"""torchvision's models by their own names, beside torchvision's own forward pass and transform."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.feature_extraction import create_feature_extractor

from stillsight.encoders import spec
from stillsight.encoders.preprocess import Preprocess
from stillsight.encoders.zoo.registry import make_backbone, torchvision_models

SMALL = {"regnet_y_400mf": ("trunk_output", 64), "shufflenet_v2_x0_5": ("conv5", 64), "mnasnet0_5": ("layers", 64)}
LARGER = {
    "resnet101": ("layer4", 64),
    "densenet121": ("relu", 64),
    "googlenet": ("inception5b", 64),
    "inception_v3": ("Mixed_7c", 96),
    "swin_t": ("permute", 64),
    "swin_v2_t": ("permute", 64),
    "maxvit_t": ("blocks", 224),
    "vgg11_bn": ("features", 64),
    "alexnet": ("features", 64),
    "efficientnet_v2_s": ("features", 64),
}
every = [*SMALL, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGER)]


def randomise(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)


@pytest.mark.parametrize("name", every)
@torch.no_grad()
def test_features_are_those_of_its_own_forward_pass_and_transform(name: str) -> None:
    torch.manual_seed(0)
    backbone = make_backbone(name)
    randomise(backbone.model)
    backbone.model.eval()
    node, side = (SMALL | LARGER)[name]
    pixels = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8)
    transform = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    transform.resize_size, transform.crop_size = [side, side], [side, side]
    images = transform(pixels)
    extractor = create_feature_extractor(backbone.model, [node])
    expected: Tensor = extractor(images)[node]
    found = Preprocess(backbone.preprocessing, None, None)(pixels)
    for stage in backbone.stages.values():
        found = stage(found)
    assert found.shape == expected.shape
    assert F.cosine_similarity(found.flatten(1), expected.flatten(1)).min() >= 0.9999


def test_its_names_are_known_without_importing_it() -> None:
    assert torchvision_models() == tuple(torchvision.models.list_models(module=torchvision.models))
    assert len(torchvision_models()) >= 80


def test_the_record_is_measured_on_the_network() -> None:
    row = spec("resnext50_32x4d")
    assert dict(row.stages) == {"stem": 4, "layer1": 4, "layer2": 8, "layer3": 16, "layer4": 32}
    assert (row.tap, row.control) == ("layer4", ("layer2", "grid6"))
    assert row.weights == "ResNeXt50_32X4D_Weights.IMAGENET1K_V2"
    assert not row.own
    alexnet = spec("alexnet")
    assert alexnet.stages["features.12"] == 63, "AlexNet does not pad, and 62 px do not reach its last pool"
    with pytest.raises(RuntimeError), torch.no_grad():
        nn.Sequential(*make_backbone("alexnet").stages.values())(torch.zeros(1, 3, 62, 62))


def test_weights_of_others_keep_their_licence_and_their_size() -> None:
    row = spec("vit_h_14")
    assert (row.weights, row.licence, row.accept) == ("ViT_H_14_Weights.IMAGENET1K_SWAG_E2E_V1", "CC-BY-NC-4.0", True)
    with torch.device("meta"):
        model = make_backbone("vit_h_14").model
    assert model.state_dict()["encoder.pos_embedding"].shape == (1, 1 + 37**2, 1280), "trained on 518 px"
