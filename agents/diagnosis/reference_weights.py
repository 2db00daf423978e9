"""Reference weights, compared with those that a network holds now; and the mark of orthogonal initialisation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from stillsight.agents.errors import RunError
from stillsight.encoders.weights.former_names import names_today, renamed
from stillsight.encoders.weights.weights_file import read_state_dict

_ORTHOGONAL = 0.05
"""Largest distance that counts. Freshly initialised layers measure 1e-12, torch's own initialisation 0.7 to 1.5, the
convolutions of ImageNet's ResNet-18 3 to 23 and those of its MobileNetV2 0.3 and more."""

_ROWS = 256
"""Rows that are looked at: some of the rows of an orthogonal matrix are orthogonal, and a wide layer has thousands."""


def read_references(weights: Mapping[str, Tensor] | Path | str) -> Mapping[str, Tensor]:
    """Read reference weights from a state_dict or from a safetensors or torch file, of which no code is run.

    Raises:
        RunError: no such file.
        EncoderError: the file is damaged or holds other things than tensors.
    """
    if isinstance(weights, Mapping):
        return weights
    path = Path(weights)
    if not path.is_file():
        raise RunError(f"There is no file {path} to compare with. Give diagnose a state_dict or a file of weights.")
    return read_state_dict(path)


def match(references: Mapping[str, Tensor], state: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Match each tensor of `state` with its reference: by the longest common end of names, else by the order of shapes.

    Order is what is left where a network was cut up (`nn.Sequential(*list(net.children())[:-1])`), which renames it.
    Names that torchvision's layers had before, which its files still have, count as today's.

    Args:
        references: official names -> tensors.
        state: of a network, which may hold a part of them, or them under a prefix.
        where: what the network is called in the message.

    Raises:
        RunError: less than half of the network's tensors have a reference.
    """
    wanted = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    # Either may have a prefix that the other lacks, so that a former name is looked for by every end of today's.
    references = renamed(references, names_today({end for name in wanted for end in _ends(name)}))
    named = {}
    for name, tensor in wanted.items():
        fits = [key for key, value in references.items() if _end(name, key) and value.shape == tensor.shape]
        if fits:
            named[name] = references[max(fits, key=lambda key: len(_end(name, key)))]
    ordered = _in_order(references, wanted)
    matched = named if len(named) >= len(ordered) else ordered
    if 2 * len(matched) < len(wanted):
        raise RunError(
            f"The weights given to diagnose hold {len(references)} tensors, and only {len(matched)} of the "
            f"{len(wanted)} in {where} are among them by name and shape. "
            "Give the state_dict or file that it was loaded from."
        )
    return matched


def _ends(name: str) -> Iterator[str]:
    """A name, and what is left of it as one part after the other is taken from its beginning."""
    parts = name.split(".")
    return (".".join(parts[first:]) for first in range(len(parts)))


def _end(name: str, key: str) -> str:
    """What two names have in common where one is the end of the other, else nothing."""
    short, long = sorted((name, key), key=len)
    return short if f".{long}".endswith(f".{short}") else ""


def _in_order(references: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    matched = {}
    rest = iter([(k, t) for k, t in references.items() if not k.endswith("num_batches_tracked")])
    for name, tensor in wanted.items():
        for key, value in rest:
            if value.shape == tensor.shape and key.rpartition(".")[2] == name.rpartition(".")[2]:
                matched[name] = value
                break
        else:
            break
    return matched


def differing(references: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors of `state` that are not their references to the last bit."""
    held = {name: state[name].detach().cpu() for name in references}
    return [name for name, value in references.items() if not torch.equal(held[name], value.cpu().to(held[name].dtype))]


def distance(weight: Tensor) -> float | None:
    """Measure how far the rows of a layer's weight (or its columns, where these are fewer) lie from orthogonality.

    With W of r rows and c >= r columns and g^2 the mean of diag(W W^T): |W W^T / g^2 - I|_F^2 / r, divided by
    (r + 1) / c, which is what independent Gaussian weights give. Zero after `nn.init.orthogonal_` of any gain, about
    one for random weights, more for trained ones, whose filters resemble each other.

    Args:
        weight: `[out, in, ...]`.

    Returns:
        The distance, or None where there are too few rows to tell, or nothing but zeros.
    """
    flat = weight.detach().flatten(1).double()
    flat = flat if flat.shape[0] <= flat.shape[1] else flat.T
    flat = flat[:_ROWS]
    rows, columns = flat.shape
    gram = flat @ flat.T
    scale = gram.diagonal().mean()
    if rows < 4 or not scale > 0:
        return None
    excess = gram / scale - torch.eye(rows, dtype=gram.dtype, device=gram.device)
    return float(excess.square().sum() / rows * columns / (rows + 1))


def count_orthogonal(layers: list[nn.Conv2d | nn.Linear]) -> tuple[int, int]:
    """Count the `layers` with orthogonal weights, and those of which it can be measured."""
    distances = [d for layer in layers if (d := distance(layer.weight)) is not None]
    return sum(d < _ORTHOGONAL for d in distances), len(distances)
