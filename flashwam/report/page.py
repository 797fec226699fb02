# SPDX-License-Identifier: Apache-2.0
"""One self-contained HTML page from sections of text, figures and tables: no script, no network, nothing beside it."""

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flashwam.system.files import write_whole

__all__ = ["Callout", "Figure", "Section", "Table", "build_page", "write_page"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A PNG, or a film, with its caption.

    Args:
        path: The PNG, or the film's GIF; its bytes go into the page.
        alt: What is seen in it, for readers who do not see it.
        caption: Shown under it.
        photo: True for pictures of the world, which keep their colours on a dark page.
        still: The PNG that stands for a film on paper, and where a reader asks for less motion.
    """

    path: Path
    alt: str
    caption: str = ""
    photo: bool = False
    still: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of cells; numbers are formatted by the caller. `emphasised` rows are set in bold, the cells of the columns
    `prose` are text that is broken into lines."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    emphasised: frozenset[int] = frozenset()
    prose: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Callout:
    """A box that must not be missed: a title, a text, points under it; `kind` is "verdict", "warning" or "note"."""

    text: str
    title: str = ""
    kind: str = "note"
    points: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A heading and what stands under it: paragraphs, callouts, figures, tables, notes, in this order.

    Text may hold `code` and **strong**; everything else is shown as it is.
    """

    heading: str
    paragraphs: Sequence[str] = ()
    callouts: Sequence[Callout] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    notes: Sequence[str] = ()


_STYLE = """
:root{color-scheme:light dark;--ink:#1f2630;--soft:#5b6470;--line:#e3e6ea;--page:#fbfbfa;--card:#ffffff;
--blue:#0b6fb8;--orange:#c2630a;
--verdict:#eaf3fa;--warning:#fdf1e3;--note:#f1f2f4}
@media screen and (prefers-color-scheme:dark){:root{--ink:#e6e8eb;--soft:#a2a9b3;--line:#343a42;--page:#16191d;
--card:#1d2126;--blue:#6cb4ea;--orange:#f0a04f;
--verdict:#16293a;--warning:#3a2914;--note:#24282e}img.plot{filter:invert(.9) hue-rotate(180deg);
mix-blend-mode:lighten}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:17px/1.6 system-ui,-apple-system,"Segoe UI",
Roboto,"Helvetica Neue",sans-serif}
main{max-width:46rem;margin:0 auto;padding:2.5rem 1.1rem 4rem}
h1{font-size:1.9rem;line-height:1.2;margin:0 0 .4rem;letter-spacing:-.01em}
h2{font-size:1.3rem;line-height:1.3;margin:3rem 0 .6rem;padding-top:1.2rem;border-top:1px solid var(--line)}
p{margin:.7rem 0}.lead{color:var(--soft);font-size:1.08rem;margin:0 0 1.2rem}
nav{font-size:.92rem;color:var(--soft);margin:1rem 0}nav a{color:var(--blue);text-decoration:none;
margin-right:1rem;display:inline-block}
code{font:.88em ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;background:var(--note);
border-radius:4px;padding:.08em .32em;overflow-wrap:anywhere}
figure{margin:1.4rem 0;background:var(--card);border:1px solid var(--line);border-radius:10px;padding:.8rem}
img{display:block;max-width:100%;height:auto;margin:0 auto}
img.photo{image-rendering:pixelated;width:100%}
.wide{overflow-x:auto}img.still{display:none}
@media(prefers-reduced-motion:reduce){img.film{display:none}img.still{display:block}}
@media(max-width:40rem){img.plot{width:max(100%,38rem);max-width:none}}
figcaption,.caption{color:var(--soft);font-size:.9rem;line-height:1.45;text-align:left}figcaption{
margin-top:.6rem}.caption{margin:.5rem 0 1.4rem}
.scroll{overflow-x:auto;margin:1.2rem 0;width:max-content;min-width:100%;max-width:min(94vw,74rem);
position:relative;left:50%;transform:translateX(-50%)}
table{border-collapse:collapse;font-size:.86rem;line-height:1.35;min-width:100%;
font-variant-numeric:tabular-nums}
th{font-weight:600;color:var(--soft);text-align:right;vertical-align:bottom;padding:.35rem .6rem;
border-bottom:2px solid var(--line)}
td{text-align:right;padding:.35rem .6rem;border-bottom:1px solid var(--line);white-space:nowrap}
th:first-child,td:first-child{text-align:left;padding-left:.1rem;position:sticky;left:0;
background:var(--page)}
th.prose,td.prose{text-align:left;white-space:normal;min-width:15rem}
tr.strong td{font-weight:650}
.callout{border-left:4px solid var(--soft);background:var(--note);border-radius:0 8px 8px 0;
padding:.7rem 1rem;margin:1rem 0}
.callout b{display:block}.callout.verdict{background:var(--verdict);border-color:var(--blue)}
.callout.warning{background:var(--warning);border-color:var(--orange)}
.callout ul{color:inherit;margin:.5rem 0 0}
ul{padding-left:1.2rem;color:var(--soft);font-size:.95rem}li{margin:.35rem 0}
footer{margin-top:3rem;border-top:1px solid var(--line);padding-top:.8rem;color:var(--soft);
font-size:.86rem}
@page{margin:14mm}
@media print{img.film{display:none}img.still{display:block}
body{background:none;font-size:10pt}main{max-width:none;padding:0}nav{display:none}
h2{margin-top:1.6rem;break-after:avoid}figure,tr,.callout li{break-inside:avoid}figure{border-color:#ccc}
img.plot,img.photo{width:auto;max-height:22cm}img.photo{max-height:11cm}.wide{overflow:visible}
.scroll{width:auto;min-width:0;max-width:none;left:0;transform:none;overflow:visible}
table{font-size:6.5pt}th,td{padding:.2rem .25rem;white-space:normal}th:first-child,td:first-child{position:static;
background:none}th.prose,td.prose{min-width:0}code{background:none;padding:0}}
"""


def _inline(text: str) -> str:
    escaped = html.escape(text, quote=False)
    escaped = re.sub(r"`([^`]+)`", r"<code>\1</code>", escaped)
    return re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", escaped)


def _breakable(text: str) -> str:
    """Marks slashes, but for those of tags, as places where a line may end."""
    return re.sub(r"(?<!<)/", "/<wbr>", _inline(text))


def _figure(figure: Figure) -> str:
    expected = ".png" if figure.still is None else ".gif"
    if figure.path.suffix.lower() != expected:
        raise ValueError(f"a page holds PNG figures, and GIF films with a still; got {figure.path}")
    kind = "film" if figure.still is not None else "photo" if figure.photo else "plot"
    alt = html.escape(figure.alt)
    image = f'<img class="{kind}" alt="{alt}" src="{_data(figure.path)}">'
    if figure.still is not None:
        # Two images, not a <picture>: a browser that prints does not choose its source anew.
        image += f'<img class="still" alt="{alt}" src="{_data(figure.still)}">'
    caption = f"<figcaption>{_inline(figure.caption)}</figcaption>" if figure.caption else ""
    return f'<figure><div class="wide">{image}</div>{caption}</figure>'


def _data(path: Path) -> str:
    return f"data:image/{path.suffix[1:].lower()};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _table(table: Table) -> str:
    if any(len(row) != len(table.columns) for row in table.rows):
        raise ValueError(f"every row needs {len(table.columns)} cells, one per column of {list(table.columns)}")
    head = "".join(
        f"<th{' class=prose' if k in table.prose else ''}>{_breakable(cell)}</th>"
        for k, cell in enumerate(table.columns)
    )
    body = "".join(
        f"<tr{' class=strong' if i in table.emphasised else ''}>"
        + "".join(f"<td{' class=prose' if k in table.prose else ''}>{_inline(c)}</td>" for k, c in enumerate(row))
        + "</tr>"
        for i, row in enumerate(table.rows)
    )
    caption = f'<p class="caption">{_inline(table.caption)}</p>' if table.caption else ""
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{caption}'


def _callout(callout: Callout) -> str:
    if callout.kind not in ("verdict", "warning", "note"):
        raise ValueError(f'a callout is a "verdict", a "warning" or a "note"; got {callout.kind!r}')
    title = f"<b>{_inline(callout.title)}</b>" if callout.title else ""
    points = _list(callout.points)
    return f'<div class="callout {callout.kind}">{title}{_inline(callout.text)}{points}</div>'


def _list(points: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{_inline(point)}</li>" for point in points) + "</ul>" if points else ""


def _anchor(index: int) -> str:
    return f"s{index + 1}"


def build_page(
    title: str, sections: Sequence[Section], *, lead: str = "", footer: str = "", film: Figure | None = None
) -> str:
    """The whole page as one string, with every image inside it.

    Args:
        title: Page title and first heading.
        sections: In reading order; more than two get a table of contents.
        lead: A sentence or two under the title.
        footer: Small print, such as versions and the command that made the page.
        film: Stands at the top, before the table of contents.
    """
    parts = []
    for i, section in enumerate(sections):
        parts.append(f'<h2 id="{_anchor(i)}">{_inline(section.heading)}</h2>')
        parts += [f"<p>{_inline(text)}</p>" for text in section.paragraphs]
        parts += [_callout(callout) for callout in section.callouts]
        parts += [_figure(figure) for figure in section.figures]
        parts += [_table(table) for table in section.tables]
        parts.append(_list(section.notes))
    contents = ""
    if len(sections) > 2:
        links = "".join(f'<a href="#{_anchor(i)}">{_inline(s.heading)}</a> ' for i, s in enumerate(sections))
        contents = f"<nav>{links}</nav>"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{_inline(title)}</h1>\n"
        + (f'<p class="lead">{_inline(lead)}</p>\n' if lead else "")
        + (f"{_figure(film)}\n" if film is not None else "")
        + contents
        + "\n".join(parts)
        + (f"\n<footer>{_inline(footer)}</footer>" if footer else "")
        + "\n</main>\n</body>\n</html>\n"
    )


def write_page(
    path: Path,
    title: str,
    sections: Sequence[Section],
    *,
    lead: str = "",
    footer: str = "",
    film: Figure | None = None,
) -> Path:
    """`build_page` to a file that is always whole, so that it can be reloaded while results come in."""
    return write_whole(path, build_page(title, sections, lead=lead, footer=footer, film=film))
