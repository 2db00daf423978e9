"""RotaryBlock: a block with rotary positions, by itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from stillsight.encoders.errors import EncoderError


class Grid:
    """Rows and columns of the patches of the last images, shared by all copies of a network's blocks.

    Images of one size go through one network; blocks that run without the embedding (behind the cut) read here how
    many rows their tokens lie in, and take them for a square where nothing is known.
    """

    def __init__(self) -> None:
        self.sides: tuple[int, int] | None = None

    def __deepcopy__(self, memo: object) -> Grid:
        return self

    def note(self, rows: int, columns: int) -> None:
        """Note it, unless a compiler, an exporter or a tracer only looks."""
        if not torch.compiler.is_compiling() and isinstance(rows, int):
            self.sides = rows, columns

    def of(self, count: int) -> tuple[int, int]:
        """Rows and columns of `count` patches."""
        if self.sides is not None and self.sides[0] * self.sides[1] == count:
            return self.sides
        side = round(count**0.5)
        if side * side != count:
            raise EncoderError(
                f"{count} patches form no square, and in which rows they lie is not known before an image has come "
                "through. Make the images square (--size), or add --resolution."
            )
        return side, side


class RotaryBlock(nn.Module):
    """A block with rotary positions (Su et al. 2021), which it computes from the number of its tokens: tokens
    `[N, prefix + L, C]` in and out."""

    def __init__(self, block: nn.Module, network: Any, grid: Grid) -> None:
        super().__init__()
        self.block, self.grid = block, grid
        self.prefix = int(network.num_prefix_tokens)
        self.rope: Any = network.rope

    def forward(self, tokens: Tensor) -> Tensor:
        rows, columns = self.grid.of(tokens.shape[1] - self.prefix)
        rotation = self.rope.get_embed(shape=[rows, columns])
        turned: Tensor = self.block(tokens, rope=rotation.to(tokens.dtype))
        return turned
