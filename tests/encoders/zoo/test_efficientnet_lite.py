"""EfficientNet-Lite beside timm's port of the same TensorFlow network, with the same weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from stillsight.encoders.engines.folded import fold
from stillsight.encoders.zoo.registry import make_backbone

TENSORS = {0: 296, 1: 386, 2: 386}


def randomise(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)


@pytest.mark.parametrize("size", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
@torch.no_grad()
def test_features_are_those_of_timms_port(size: int) -> None:
    timm = pytest.importorskip("timm")
    backbone, reference = make_backbone(f"efficientnet_lite{size}"), timm.create_model(f"tf_efficientnet_lite{size}")
    randomise(backbone.model)
    state = backbone.model.state_dict()
    theirs = reference.state_dict()
    assert len(state) == len(theirs) == TENSORS[size]
    assert [tuple(t.shape) for t in state.values()] == [tuple(t.shape) for t in theirs.values()], "in the same order"
    reference.load_state_dict(dict(zip(theirs, state.values(), strict=True)))
    reference.eval()
    for shape in ((64, 64), (65, 47), (33, 50)):  # TensorFlow pads odd sides in another way than even ones
        images = torch.randn(2, 3, *shape)
        features = images
        for stage in backbone.stages.values():
            features = stage.eval()(features)
        expected = reference.forward_features(images)
        assert features.shape == expected.shape
        assert F.cosine_similarity(features.flatten(1), expected.flatten(1)).min() >= 0.9999
    folded = images
    for stage in backbone.stages.values():
        twin = fold(stage)
        assert not [module for module in twin.modules() if isinstance(module, nn.BatchNorm2d)], "all are folded"
        folded = twin(folded)
    torch.testing.assert_close(folded, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def test_its_recipe_is_that_of_the_converted_weights() -> None:
    recipe = make_backbone("efficientnet_lite0").preprocessing
    assert (recipe.mean, recipe.std, recipe.size) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 224)
