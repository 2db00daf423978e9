"""Tables in terminals of any width: no word is broken, and what has no room is named."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pytest
from rich.console import Console

from stillsight.agents import columns
from stillsight.agents.columns import Columns
from stillsight.agents.encoder_table import NUMBERS, SPARE

COSTS = ("encoder", "family", "tap", "dims", "stages", "px", "M params", "MFLOPs", "licence", "weights")
ROWS = (
    ("mobilenet_v4_medium", "MobileNet", "blocks.4", "960", "6", "256", "8.43", "1,104", "Apache-2.0", "download"),
    ("efficientnet_b0", "EfficientNet", "features.8", "1280", "9", "224", "4.01", "385", "BSD-3-Clause", "download"),
    ("convnextv2_atto", "ConvNeXt V2", "stages.3", "320", "5", "224", "3.39", "552", "CC-BY-NC-4.0, accepted", "-"),
    ("drq", "DrQ", "conv4", "39200", "4", "84", "0.03", "25", "-", "from scratch"),
)  # fmt: skip


def printed(table: Columns, width: int) -> list[str]:
    text = io.StringIO()
    table.show(Console(file=text, width=width, color_system=None, highlight=False))
    return [line.rstrip() for line in text.getvalue().splitlines()]


def costs(rows: Sequence[tuple[str, ...]] = ROWS) -> Columns:
    table = Columns(*COSTS, right=NUMBERS, spare=SPARE)
    for row in rows:
        table.add(*row)
    return table


@pytest.mark.parametrize(
    ("width", "left_out"), [(80, ["family", "stages", "licence"]), (100, ["family"]), (120, []), (200, [])]
)
def test_no_word_is_broken_at_any_width(width: int, left_out: list[str]) -> None:
    table = costs()
    lines = printed(table, width)
    assert max(map(len, lines)) <= width
    words = {word for line in lines for word in line.split()}
    shown = [at for at, name in enumerate(COSTS) if name not in left_out]
    assert {word for row in (COSTS, *ROWS) for at in shown for word in row[at].split()} <= words
    told = [line for line in lines if line.startswith("Without room here")]
    assert told == ([f"Without room here: {', '.join(left_out)}. A wider terminal shows more."] if left_out else [])
    assert table.left_out(width) == left_out


def test_room_goes_where_most_cells_stand_on_one_line() -> None:
    table = Columns("a", "b")
    for _ in range(5):
        table.add("one two", "x")
    table.add("x", "one two three")
    assert table.widths(5 + 2 + 5) == {"a": 3, "b": 5}
    assert table.widths(12 + 2) == {"a": 7, "b": 5}, "and not where one cell would be unfolded"
    assert table.widths(100) == {"a": 7, "b": 13}
    assert printed(table, 14)[1] == "one two  x"
    table.whole = ("b",)
    assert table.widths(5) == {"a": 3, "b": 13}


def test_a_path_that_is_wider_than_the_terminal_can_be_copied_whole() -> None:
    table = Columns("run", "state", spare=("state",))
    path = "results/" + "x" * 60
    table.add(path, "[bold]done\x1b[2J")
    lines = printed(table, 40)
    assert path in lines
    assert " ".join(lines).endswith("Without room here: state. A wider terminal shows more.")
    (line,) = [line for line in printed(table, 120) if line.startswith(path)]
    assert line.split()[1] == "[bold]done\\x1b[2J", "nobody's words are markup or obeyed"


def test_a_pipe_is_as_wide_as_columns_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert columns.console(300).width == 300
    monkeypatch.setenv("COLUMNS", "77")
    assert columns.console(300).width == 77
