"""What the tests of the supervised track share: a small problem that anything with eyes can learn."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from stillsight.encoders.supervised.data.split import Dataset, Split

Coloured = Callable[[int, int], Split]


@pytest.fixture(scope="session")
def coloured(program: Any) -> Coloured:
    """(count, seed) -> images that are mostly red, green or blue, with noise."""

    images: Coloured = program.images
    return images


@pytest.fixture(scope="session")
def colours(coloured: Coloured) -> Dataset:
    """Sixty-six images in three colours."""
    return Dataset("colours", coloured(36, 1), coloured(15, 2), coloured(15, 3), ("red", "green", "blue"))


@pytest.fixture(scope="session")
def program() -> Any:
    """The small training that is killed, or started by torchrun, as a module."""
    spec = importlib.util.spec_from_file_location("train_once", Path(__file__).parent / "training" / "train_once.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def settings_restored() -> Iterator[None]:
    """A measurement switches on fast arithmetic for the whole process, which other tests must not see."""
    precision = torch.get_float32_matmul_precision()
    yield
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = True, False
