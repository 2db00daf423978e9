"""Colours and line styles of arms: told apart by colour-blind readers, in print, and on light and dark pages.

The hues are those of Okabe and Ito 2008, "Color universal design", darkened or lightened until each stands out from its
page by 3:1 (WCAG 2.2, 1.4.11); neighbours differ in lightness too. Dashes say the same a second time.
"""

from __future__ import annotations

LIGHT = ("#0072b2", "#d55e00", "#00795c", "#b1498b", "#7a6a00", "#333333", "#2790cc", "#8c2d04")
DARK = ("#56a8e0", "#ff8a3d", "#35c79b", "#e39acb", "#e6d34a", "#e8e8e8", "#a9dcf7", "#d99a7c")
"""For pages that are light or dark, arm by arm; a ninth arm begins again with another dash."""

DASHES: tuple[tuple[float, ...], ...] = (
    (),
    (6, 2),
    (2, 2),
    (8, 2, 2, 2),
    (4, 1),
    (10, 3),
    (1, 1.5),
    (6, 2, 1, 2, 1, 2),
)
"""Lengths of ink and gap in line widths; () is a solid line."""


def colour(index: int) -> str:
    """Of the arm with this index, on a light page."""
    return LIGHT[index % len(LIGHT)]


def dash(index: int) -> tuple[float, ...]:
    """Of the arm with this index; colour and dash together differ for 64 arms."""
    return DASHES[(index + index // len(LIGHT)) % len(DASHES)]
