"""What the tests of measurements of the supervised track share: a small data set."""

from __future__ import annotations

import pytest
import torch

from stillsight.encoders.supervised.data.split import Dataset, Split


@pytest.fixture(scope="session")
def colours() -> Dataset:
    """Sixty-six noise images that are mostly red, green or blue."""

    def split(count: int, seed: int) -> Split:
        generator = torch.Generator().manual_seed(seed)
        labels = torch.arange(count) % 3
        pixels = torch.randint(0, 120, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
        pixels[torch.arange(count), labels] += 100
        return Split(pixels, labels)

    return Dataset("colours", split(36, 1), split(15, 2), split(15, 3), ("red", "green", "blue"))
