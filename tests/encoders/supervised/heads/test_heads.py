"""Heads on cached features: each against its definition, what is chosen by validation images, and back from a file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from stillsight.encoders import EncoderError
from stillsight.encoders.supervised.cifar_config import HeadKind
from stillsight.encoders.supervised.heads import kinds, knn, linear, mlp, ncm
from stillsight.encoders.supervised.heads.head import Fitted, accuracy, mean_and_std, score
from stillsight.encoders.supervised.heads.knn import NearestNeighbours
from stillsight.encoders.supervised.heads.linear import LinearHead

KINDS: list[HeadKind] = ["linear", "mlp", "knn", "ncm"]


@pytest.fixture(autouse=True)
def fewer_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small problems need no 300 updates."""
    monkeypatch.setattr(mlp, "UPDATES", 60)


def clusters(count: int, seed: int, noise: float, width: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    centres = torch.eye(width)[:3] * 10 + 5
    return centres[labels] + noise * torch.randn(count, width, generator=generator), labels


def fitted(train: Any, validation: Any, **options: Any) -> tuple[Fitted, LinearHead]:
    found = kinds.fit("linear", train, validation, 3, **options)
    assert isinstance(found.head, LinearHead)
    return found, found.head


def test_accuracy_is_the_share_of_hits() -> None:
    logits = torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.0, 9.0], [5.0, 4.0]])
    assert accuracy(logits, torch.tensor([1, 0, 0, 1])) == 0.5


@pytest.mark.usefixtures("double_precision")
def test_among_equally_accurate_heads_the_likelier_is_chosen() -> None:
    labels = torch.tensor([0, 1])
    unsure, sure = torch.tensor([[0.1, 0.0], [0.0, 0.1]]), torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    assert score(unsure, labels)[0] == score(sure, labels)[0] == 1.0
    assert score(unsure, labels) < score(sure, labels)
    assert score(sure, labels)[1] == pytest.approx(-math.log1p(math.exp(-2)), abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_every_head_solves_what_can_be_separated(kind: HeadKind) -> None:
    found = kinds.fit(kind, clusters(90, 1, 0.5), clusters(30, 2, 0.5), 3)
    assert found.validation_accuracy == 1.0
    assert found.refit
    inputs, labels = clusters(300, 3, 0.5)
    assert accuracy(found.head(inputs), labels) == 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_every_head_comes_back_from_its_file_as_it_was(kind: HeadKind, tmp_path: Path) -> None:
    found = kinds.fit(kind, clusters(60, 1, 3.0), clusters(30, 2, 3.0), 3)
    save_file({name: t.contiguous() for name, t in found.head.state().items()}, tmp_path / "h", {"head": kind})
    inputs, _ = clusters(40, 3, 3.0)
    assert torch.equal(kinds.read(tmp_path / "h")(inputs), found.head(inputs))


def test_a_network_s_last_layer_is_a_head_too(tmp_path: Path) -> None:
    layer = nn.Linear(5, 3)
    save_file(dict(layer.state_dict()), tmp_path / "h")
    inputs = torch.randn(7, 5)
    assert torch.equal(kinds.read(tmp_path / "h")(inputs), layer(inputs))


@pytest.mark.parametrize(
    ("content", "kind", "words"),
    [
        (None, "", "There is no head"),
        (b"not a head", "", "is damaged"),
        ({"weight": torch.zeros(2, 2)}, "mlp", "is damaged"),
        ({"weight": torch.zeros(2, 2)}, "svm", "is damaged"),
    ],
)
def test_a_head_that_cannot_be_read_is_one_sentence(tmp_path: Path, content: Any, kind: str, words: str) -> None:
    path = tmp_path / "head.safetensors"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        save_file(content, path, {"head": kind})
    with pytest.raises(EncoderError, match=rf"{words}.*[Tt]rain"):
        kinds.read(path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_feature_that_is_silent_in_training_does_no_harm_later(kind: HeadKind) -> None:
    inputs, labels = clusters(60, 1, 0.5)
    inputs[:, 5] = 0.0
    found = kinds.fit(kind, (inputs, labels), (inputs, labels), 3)
    later = inputs.clone()
    later[:, 5] = 0.5  # over a deviation of almost nothing this would be half a million
    assert found.head(later).isfinite().all()
    assert accuracy(found.head(later), labels) == 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_one_image_a_class_leaves_nothing_to_choose_with(kind: HeadKind) -> None:
    inputs, labels = clusters(3, 1, 0.1)
    found = kinds.fit(kind, (inputs, labels), (inputs[:0], labels[:0]), 3)
    assert math.isnan(found.validation_accuracy)
    assert not found.refit
    expected = {"linear": {"penalty": 0.1}, "mlp": {"dropout": 0.5}, "knn": {"neighbours": 1}, "ncm": {"scale": 10.0}}
    assert found.chosen == expected[kind]
    assert accuracy(found.head(inputs), labels) == 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_the_validation_images_are_learned_in_the_end_and_only_if_wanted(kind: HeadKind) -> None:
    train, validation = clusters(60, 1, 2.0), clusters(30, 2, 2.0)
    plain = kinds.fit(kind, train, validation, 3, refit=False)
    both = kinds.fit(kind, train, validation, 3)
    assert (plain.refit, both.refit) == (False, True)
    assert plain.validation_accuracy == both.validation_accuracy, "told before they were learned"
    assert plain.chosen == both.chosen
    assert torch.allclose(plain.head.state()["mean"], train[0].mean(0), atol=1e-6)
    everything = torch.cat([train[0], validation[0]])
    assert torch.allclose(both.head.state()["mean"], everything.mean(0), atol=1e-6)


# Linear ---------------------------------------------------------------------------------------------------------------


def test_the_linear_head_is_at_the_minimum_of_its_convex_problem() -> None:
    inputs, labels = clusters(90, 1, 8.0)
    found, head = fitted((inputs, labels), clusters(60, 2, 8.0), refit=False)
    weight, bias = head.weight.clone().requires_grad_(), head.bias.clone().requires_grad_()
    loss = F.cross_entropy(F.linear((inputs - head.mean) / head.std, weight, bias), labels)
    loss = loss + found.chosen["penalty"] * weight.square().sum()
    gradients = torch.autograd.grad(loss, [weight, bias])
    assert max(float(g.abs().max()) for g in gradients) < 1e-3
    # Where the gradient of the bias vanishes, the mean prediction of each class is its share of the labels.
    shares = F.softmax(head(inputs), dim=1).mean(0)
    assert torch.allclose(shares, torch.full((3,), 1 / 3), atol=1e-3)


def test_the_penalty_is_chosen_by_validation_images() -> None:
    # More features than images: every penalty fits the training images, and only new images tell them apart.
    train, validation = clusters(24, 1, 12.0, width=60), clusters(600, 2, 12.0, width=60)
    found, head = fitted(train, validation, refit=False)
    scores = {}
    layer = nn.Linear(60, 3)
    for penalty in linear.PENALTIES:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        mean, std = mean_and_std(train[0])
        other = linear._solve(layer, (train[0] - mean) / std, train[1], mean, std, penalty)
        scores[penalty] = accuracy(other(validation[0]), validation[1])
    assert len(set(scores.values())) > 1, "the choice would be empty"
    assert found.validation_accuracy == accuracy(head(validation[0]), validation[1])
    assert found.validation_accuracy >= max(scores.values()) - 0.01


def test_the_folded_head_is_the_same_function_of_features_as_they_are() -> None:
    _, head = fitted(clusters(90, 1, 3.0), clusters(30, 2, 3.0))
    inputs, _ = clusters(50, 3, 3.0)
    assert torch.allclose(F.linear(inputs, *head.folded()), head(inputs), atol=1e-4)


# MLP ------------------------------------------------------------------------------------------------------------------


def test_the_mlp_solves_what_no_line_can() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(400, 2, generator=generator)
    labels = (inputs[:, 0] * inputs[:, 1] > 0).long()
    train, validation = (inputs[:300], labels[:300]), (inputs[300:], labels[300:])
    assert kinds.fit("linear", train, validation, 2).validation_accuracy < 0.7
    assert kinds.fit("mlp", train, validation, 2).validation_accuracy > 0.9


def test_the_mlp_depends_on_its_seed_alone() -> None:
    train, validation = clusters(60, 1, 3.0), clusters(30, 2, 3.0)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = kinds.fit("mlp", train, validation, 3, seed=4).head.state()
    assert torch.equal(torch.get_rng_state(), before), "another's chance was used up"
    torch.manual_seed(2)
    two, other = (kinds.fit("mlp", train, validation, 3, seed=seed).head.state() for seed in (4, 5))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["weight1"], other["weight1"])


# k-NN and class means -------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), count=st.sampled_from([1, 5, 10]))
def test_neighbours_vote_as_in_the_slow_way(seed: int, count: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    known, labels = torch.randn(30, 4, generator=generator), torch.randint(0, 3, (30,), generator=generator)
    head = knn._remember((known, labels), 3, count)
    assert isinstance(head, NearestNeighbours)
    for query in torch.randn(5, 4, generator=generator):
        cosine = F.cosine_similarity((query - known.mean(0))[None], known - known.mean(0))
        votes = torch.zeros(3)
        for place in cosine.argsort(descending=True)[:count]:
            votes[labels[place]] += math.exp(float(cosine[place]) / 0.07)
        shares = (votes / votes.sum()).clamp_min(1e-6)
        assert torch.allclose(head(query[None])[0].exp(), shares, atol=1e-4)
        assert torch.equal(head.sweep(query[None])[count], head(query[None]))


def test_the_count_of_neighbours_is_chosen_by_validation_images() -> None:
    train, validation = clusters(300, 1, 9.0), clusters(300, 2, 9.0)
    found = kinds.fit("knn", train, validation, 3, refit=False)
    scores = {count: score(knn._remember(train, 3, count)(validation[0]), validation[1]) for count in knn.COUNTS}
    assert found.chosen["neighbours"] == max(scores, key=lambda count: scores[count])
    assert found.chosen["neighbours"] > 1, "a single neighbour is a poor judge of noisy classes"


def test_more_rows_than_fit_at_once_are_classified_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    head = knn._remember(clusters(30, 1, 3.0), 3, 5)
    inputs, _ = clusters(20, 2, 3.0)
    whole = head(inputs)
    monkeypatch.setattr(knn, "ROWS", 7)
    assert torch.allclose(head(inputs), whole, atol=1e-6)


def test_class_means_are_those_of_centred_features_of_length_one() -> None:
    train, validation = clusters(60, 1, 3.0), clusters(30, 2, 3.0)
    head = kinds.fit("ncm", train, validation, 3, refit=False).head
    centre = train[0].mean(0)
    rows = [(row - centre) / (row - centre).norm() for row in train[0]]
    expected = torch.stack(
        [torch.stack([r for r, y in zip(rows, train[1], strict=True) if y == c]).mean(0) for c in range(3)]
    )
    assert torch.allclose(head.state()["means"], expected, atol=1e-5)
    query = validation[0][:4]
    distances = torch.stack([(F.normalize(query - centre, dim=1) - mean).square().sum(1) for mean in expected], 1)
    assert torch.allclose(head(query), -head.state()["scale"] * distances, atol=1e-4)


def test_the_scale_of_class_means_makes_the_validation_images_likeliest() -> None:
    train, validation = clusters(60, 1, 4.0), clusters(90, 2, 4.0)
    found = kinds.fit("ncm", train, validation, 3, refit=False)
    losses = {
        scale: F.cross_entropy(ncm._average(train, 3, scale)(validation[0]), validation[1]).item()
        for scale in ncm.SCALES
    }
    assert found.chosen["scale"] == min(losses, key=lambda scale: losses[scale])


def test_heads_count_what_they_fit() -> None:
    assert kinds.parameters("linear", 512, 10) == 5130
    assert kinds.parameters("mlp", 512, 10) == 513 * 256 + 257 * 10
    state = kinds.fit("mlp", clusters(30, 1, 1.0), clusters(30, 2, 1.0), 3).head.state()
    assert kinds.parameters("mlp", 6, 3) == sum(t.numel() for name, t in state.items() if name[-1].isdigit())
    assert kinds.parameters("knn", 512, 10) == kinds.parameters("ncm", 512, 10) == 0


@pytest.mark.parametrize("scale", [1e-10, 1.0, 1e6])
def test_the_scale_of_the_features_is_no_matter(scale: float) -> None:
    """Those of a MobileNetV2 with random weights lie near 1e-10, where a floor of 1e-6 made all images alike."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    centres = torch.randn(3, 8, generator=generator)
    features = (centres[labels] * 3 + torch.randn(300, 8, generator=generator)) * scale
    features[:, 5] = 0.25 * scale  # one that never changes
    for head in ("linear", "mlp", "knn", "ncm"):
        fitted = kinds.fit(head, (features[:200], labels[:200]), (features[200:], labels[200:]), 3, seed=0)
        assert accuracy(fitted.head(features[200:]), labels[200:]) > 0.9, head
