# SPDX-License-Identifier: Apache-2.0
"""The looks of every figure of a report: palette, axes, direct labels, saving."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from flashwam.system.errors import MissingPackageError
from flashwam.system.files import write_whole

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "INK",
    "MUTED",
    "PALETTE",
    "label_beside",
    "label_points",
    "legend_below",
    "name_lines",
    "new_figure",
    "plain_ticks",
    "readable",
    "save_figure",
    "stream_colour",
    "tidy",
]

INK, MUTED, GRID = "#22272e", "#6b7280", "#e5e7eb"
STREAM_COLOURS = {"video": "#0b6fb8", "action": "#d9730d"}
PALETTE = (
    "#0b6fb8",
    "#d9730d",
    "#00896b",
    "#b8558f",
    "#7a5195",
    "#8c6d1f",
    "#3aa0c9",
    "#c0392b",
    "#1c2f73",
    "#8fa31e",
    "#e2604a",
    "#005f4b",
    "#6f86d6",
    "#6e1423",
    "#2fa79a",
    "#5b2a0c",
    "#ee5fb7",
    "#3d3d00",
    "#a06fd0",
    "#b98f00",
)
"""Colours of runs, in order; the first ten stay apart for colour-blind readers."""

_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10.5,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": "#9ca3af",
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "lines.solid_capstyle": "round",
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


def stream_colour(name: str, position: int = 0) -> str:
    """Blue for video, orange for actions; further streams take the palette from its third colour on."""
    return STREAM_COLOURS.get(name, PALETTE[2 + position % (len(PALETTE) - 2)])


@contextmanager
def new_figure(width: float = 6.6, height: float = 3.6) -> Iterator["Figure"]:
    """A figure in the house style, independent of pyplot and of the caller's settings.

    Raises:
        ImportError: without matplotlib, saying how to install it.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingPackageError("figures need matplotlib: pip install 'flashwam[report]'") from error
    with mpl.rc_context(_STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


def tidy(axes: "Axes", *, grid: Literal["both", "x", "y"] | None = "y") -> None:
    """Puts a light grid behind the data and takes the ticks away."""
    axes.set_axisbelow(True)
    axes.tick_params(which="both", length=0)
    if grid is not None:
        axes.grid(True, axis=grid)


_MANTISSAS = (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7), (1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 4.5, 5, 6, 7, 8, 9)


def plain_ticks(low: float, high: float) -> tuple[list[float], list[str]]:
    """Ticks 1, 2, 5, 10, ... of a logarithmic axis, and their labels; more of them where these are fewer than three."""
    for mantissas in _MANTISSAS:
        ticks = [m * 10.0**e for e in range(-3, 7) for m in mantissas if low <= m * 10.0**e <= high]
        if len(ticks) > 2:
            break
    return ticks, [f"{tick:g}" for tick in ticks]


def save_figure(figure: "Figure", path: Path, *, dpi: int = 160) -> Path:
    """Writes a PNG of 256 colours, a third of the size of all, and without a date, so that equal numbers give equal
    bytes."""
    from PIL import Image

    _leave_as_written(figure)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=dpi, metadata={"Software": None})
    small = io.BytesIO()
    with Image.open(drawn) as image:
        numbers, palette = _few_colours(np.asarray(image.convert("RGB"), dtype=np.int32))
    few = Image.fromarray(numbers)
    few.putpalette(palette.astype(np.uint8).tobytes())
    few.save(small, "PNG", optimize=True)
    return write_whole(path, small.getvalue())


def _leave_as_written(figure: "Figure") -> None:
    """Lets dollars of a name be dollars, where what stands between them is no formula."""
    from matplotlib.mathtext import MathTextParser
    from matplotlib.text import Text

    parser = MathTextParser("path")
    for text in figure.findobj(Text):
        if "$" in text.get_text():
            try:
                parser.parse(text.get_text())
            except ValueError:
                text.set_parse_math(False)


def _few_colours(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keeps the 256 colours that fill most of a picture, those of its lines and dots among them, and gives every other
    pixel the nearest.

    Args:
        pixels: [H, W, 3] of [0, 255].

    Returns:
        Number of a colour for each pixel, [H, W]; and the colours, [N, 3].
    """
    packed = (pixels << (16, 8, 0)).sum(axis=2)
    values, place, counts = np.unique(packed, return_inverse=True, return_counts=True)
    colours = values[:, None] >> (16, 8, 0) & 255
    most = colours[np.lexsort((values, -counts))[:256]]
    nearest = [((most - colour) ** 2).sum(axis=1).argmin() for colour in colours]
    return np.array(nearest, dtype=np.uint8)[place].reshape(packed.shape), most


_LEGIBLE = 4.5


def readable(colour: str) -> str:
    """The colour for small letters on white: as much nearer to ink as a contrast of 4.5 : 1 asks (WCAG 2.2, 1.4.3).

    Args:
        colour: "#rrggbb".
    """
    own, ink = (np.array([int(text[i : i + 2], 16) for i in (1, 3, 5)]) for text in (colour, INK))
    for share in np.linspace(0, 1, 65):
        mixed = np.rint(own + share * (ink - own)).astype(int)
        if 1.05 / (_luminance(mixed / 255) + 0.05) >= _LEGIBLE:
            break
    return "#" + "".join(f"{part:02x}" for part in mixed)


def _luminance(rgb: np.ndarray) -> float:
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def label_beside(axes: "Axes", y: float, text: str, *, offset: float) -> None:
    """Writes to the right of the axes, at the height `y` of the data, so many points away."""
    axes.annotate(
        text,
        (1, y),
        xycoords=("axes fraction", "data"),
        xytext=(offset, 0),
        textcoords="offset points",
        va="center",
        fontsize=9,
        color=MUTED,
    )


_LONG = 32
"""Letters of a label that stands in a line; a longer one is broken into two."""
_WIDEST, _LONGEST = 44, 80
"""Letters of one of two lines, and of both together."""


def name_lines(axes: "Axes", names: Sequence[tuple[str, str]]) -> None:
    """Names lines to the left of the axes, each in its colour, the first above.

    Args:
        axes: With a line at every height 0, 1, ... of the data.
        names: (text, colour) of each.
    """
    axes.set_yticks(range(len(names)), [_in_two(text) for text, _ in reversed(names)])
    for tick, (text, colour) in zip(axes.get_yticklabels(), reversed(names), strict=True):
        tick.set_color(readable(colour))
        if len(text) > _LONG:
            tick.set(fontsize=8, linespacing=1.0)


def _in_two(text: str) -> str:
    """Breaks a long label in two, after the underscore or space that is nearest to its middle; of one that is longer
    than two lines are wide, the middle is left out."""
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST // 2]}…{text[1 - _LONGEST // 2 :]}"
    places = [place + 1 for place, letter in enumerate(text) if letter in "_ " and place + 1 < len(text)]
    if len(text) <= _LONG:
        return text
    middle = min(places, key=lambda place: abs(2 * place - len(text)), default=len(text) // 2)
    if not len(text) - _WIDEST <= middle <= _WIDEST:
        middle = len(text) // 2
    return f"{text[:middle].rstrip()}\n{text[middle:]}"


_TALLEST = 9.2
"""Inches of a figure that a page of paper shows whole, at 7.2 inches of width."""


def legend_below(figure: "Figure", handles: Sequence["Artist"], names: Sequence[str], *, most: int = 5) -> None:
    """Names lines and dots below all axes, in as many columns as the figure has room for, and makes it higher by them,
    as far as a page of paper goes.

    Args:
        figure: With its axes; its size is changed.
        handles: What is named.
        names: Of each.
        most: Columns at most.
    """
    for columns in range(min(most, len(names)), 0, -1):
        legend = figure.legend(handles, names, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
        # A measured legend has no place yet; its width is what counts.
        extent = legend.get_window_extent()
        if extent.width <= figure.bbox.width or columns == 1:
            width, height = figure.get_size_inches()
            legend_height = extent.height / figure.dpi
            figure.set_size_inches(width, legend_height + max(0.75 * height, min(height, _TALLEST - legend_height)))
            return
        legend.remove()


def label_points(axes: "Axes", points: Sequence[tuple[float, float, str, str]], *, size: float = 9) -> None:
    """Labels points beside themselves; labels that would touch move up or down and keep a thin line to their point.

    Args:
        axes: Its limits and scales must be final.
        points: (x, y, text, colour) in data coordinates; one without a text is kept clear of the others'.
        size: Font size.
    """
    from matplotlib.patheffects import withStroke

    figure = cast("Figure", axes.figure)
    figure.draw_without_rendering()
    box = axes.get_window_extent()
    dots = [axes.transData.transform((x, y)) for x, y, _, _ in points]
    scale = figure.dpi / 72
    taken = [(px - 5 * scale, py - 5 * scale, px + 5 * scale, py + 5 * scale) for px, py in dots]

    def free(rectangle: tuple[float, float, float, float]) -> bool:
        x0, y0, x1, y1 = rectangle
        inside = x0 >= box.x0 and x1 <= box.x1 + 2 and y0 >= box.y0 and y1 <= box.y1
        return inside and all(x1 < a or x0 > c or y1 < b or y0 > d for a, b, c, d in taken)

    named = ((point, dot) for point, dot in zip(points, dots, strict=True) if point[2])
    for (x, y, text, colour), (px, py) in sorted(named, key=lambda item: -item[1][1]):
        sample = axes.text(x, y, text, fontsize=size)
        extent = sample.get_window_extent()
        sample.remove()
        width, height = extent.width, extent.height
        places = [
            (px + side * gap * scale - (width if side < 0 else 0), py - height / 2 + step * height * 0.55)
            for gap, reach in ((8, 3), (16, 6), (30, 16), (70, 30))
            for step in sorted(range(-reach, reach + 1), key=abs)
            for side in (1, -1)
        ]
        corner = next((p for p in places if free((p[0], p[1], p[0] + width, p[1] + height))), places[0])
        taken.append((corner[0], corner[1], corner[0] + width, corner[1] + height))
        right = corner[0] >= px
        anchor = (corner[0] if right else corner[0] + width, corner[1] + height / 2)
        away = abs(anchor[1] - py) > height * 0.4 or abs(anchor[0] - px) > 12 * scale
        written = axes.annotate(
            text,
            (x, y),
            xytext=((anchor[0] - px) / scale, (anchor[1] - py) / scale),
            textcoords="offset points",
            ha="left" if right else "right",
            va="center",
            fontsize=size,
            color=readable(colour),
            arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.6, "alpha": 0.6, "shrinkA": 1, "shrinkB": 4}
            if away
            else None,
            path_effects=[withStroke(linewidth=4, foreground="white")],
        )
        # Room for it would move the axes from where its place was found.
        written.set_in_layout(False)


def label_ends(axes: "Axes", ends: Sequence[tuple[float, float, str, str]], *, size: float = 9) -> None:
    """Labels lines at the right edge of the axes, moved apart where they would touch.

    Args:
        axes: Its limits and scales must be final.
        ends: (x, y, text, colour) of each line's last point, in data coordinates.
        size: Font size.
    """
    figure = cast("Figure", axes.figure)
    figure.draw_without_rendering()
    lines = 2 if any("\n" in _in_two(text) for _, _, text, _ in ends) else 1
    gap = size * 1.3 * lines * figure.dpi / 72
    box = axes.get_window_extent()
    order = sorted(ends, key=lambda end: end[1])
    wanted = [float(axes.transData.transform((x, y))[1]) for x, y, _, _ in order]
    heights = list(wanted)
    for _ in range(200):
        moved = False
        for i in range(len(heights) - 1):
            overlap = gap - (heights[i + 1] - heights[i])
            if overlap > 0.1:
                heights[i] -= overlap / 2
                heights[i + 1] += overlap / 2
                moved = True
        if not moved:
            break
    for (_, _, text, colour), height in zip(order, heights, strict=True):
        axes.annotate(
            _in_two(text),
            (1, (height - box.y0) / box.height),
            xycoords="axes fraction",
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=size,
            color=readable(colour),
            annotation_clip=False,
        )
