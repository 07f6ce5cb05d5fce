"""A page of results that opens in any browser without a network: `write_page(path, title=..., sections=[...])`.

Pictures stay files beside the page; the page links them by their path relative to it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

STYLE = """
:root { color-scheme: light dark; --ink: #1d2430; --soft: #5b6675; --paper: #fbfbfa; --card: #ffffff; --line: #e3e5e8;
  --accent: #24598f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --soft: #9aa5b4; --paper: #14181e; --card: #1c222a;
  --line: #2c343f; --accent: #7db4ee; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1080px; padding: 3rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, sans-serif; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.3rem; margin: 0; }
p { margin: .5rem 0 0; max-width: 46rem; }
.lead, figcaption, th { color: var(--soft); }
section { margin-top: 2.2rem; padding: 1.5rem; background: var(--card); border: 1px solid var(--line);
  border-radius: 12px; }
header + section { margin-top: 2rem; }
.numbers { display: flex; flex-wrap: wrap; gap: .5rem 2.2rem; margin: 1rem 0 0; padding: 0; list-style: none; }
.numbers b { display: block; font-size: 1.5rem; line-height: 1.25; color: var(--accent);
  font-variant-numeric: tabular-nums; }
.numbers span { color: var(--soft); font-size: .88rem; }
figure { margin: 1.2rem 0 0; }
figure img { display: block; max-width: 100%; height: auto; border-radius: 6px; }
figcaption { margin-top: .4rem; font-size: .88rem; }
pre { margin: 1.2rem 0 0; padding: .8rem 1rem; overflow-x: auto; background: var(--paper);
  border: 1px solid var(--line); border-radius: 6px; font-size: .88rem; }
"""


@dataclass(frozen=True, kw_only=True)
class Section:
    """One part of the page: `numbers` are (value, what it is), `figures` (file, caption), `commands` a line each."""

    title: str
    text: str
    numbers: Sequence[tuple[str, str]] = ()
    figures: Sequence[tuple[Path, str]] = ()
    commands: Sequence[str] = ()


def write_page(path: Path, *, title: str, lead: str, sections: Sequence[Section]) -> None:
    """Write the page to `path`; the figures must lie in its folder or below."""
    body = "\n".join(_section(section, path.parent) for section in sections)
    path.write_text(
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f'<header>\n<h1>{escape(title)}</h1>\n<p class="lead">{escape(lead)}</p>\n</header>\n'
        f"{body}\n</body>\n</html>\n",
        encoding="utf-8",
    )


def _section(section: Section, folder: Path) -> str:
    parts = [f"<h2>{escape(section.title)}</h2>", f"<p>{escape(section.text)}</p>"]
    if section.numbers:
        items = (f"<li><b>{escape(value)}</b><span>{escape(name)}</span></li>" for value, name in section.numbers)
        parts.append(f'<ul class="numbers">{"".join(items)}</ul>')
    for file, caption in section.figures:
        source = escape(file.relative_to(folder).as_posix(), quote=True)
        text = escape(caption, quote=True)
        parts.append(f'<figure><img src="{source}" alt="{text}"><figcaption>{text}</figcaption></figure>')
    if section.commands:
        parts.append(f"<pre>{escape(chr(10).join(section.commands))}</pre>")
    return "<section>\n" + "\n".join(parts) + "\n</section>"
