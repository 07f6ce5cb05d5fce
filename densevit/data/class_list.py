"""Class names and colours from a file: JSON, YAML, CSV or plain text.

    classes.txt     one name a line, id 0 first; optionally followed by its colour: `road 128 64 128`
    classes.csv     columns name,r,g,b (with a header line)
    classes.json    ["road", ...] or {"road": [128, 64, 128], ...} or [{"name": "road", "color": "#804080"}, ...]
    classes.yaml    the same as JSON

An entry named `ignore` is no class: pixels of its colour are left out of training and scores.
"""

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from densevit.data.base import Palette
from densevit.data.image_io import Color
from densevit.errors import UserError

FILE_NAMES = tuple(f"classes.{suffix}" for suffix in ("json", "yaml", "yml", "csv", "txt"))
IGNORE_NAME = "ignore"


@dataclass(frozen=True, kw_only=True)
class ClassList:
    """The classes of a data set, in id order."""

    names: tuple[str, ...]
    colors: tuple[Color | None, ...]
    """One for each name; None where the file gives no colour."""
    ignore_colors: tuple[Color, ...] = ()
    """Colours that mean "no label"."""

    @property
    def palette(self) -> Palette:
        """A colour for every class; those without one get their colour of `voc_palette`."""
        spare = voc_palette(len(self.names))
        return tuple(color or spare[index] for index, color in enumerate(self.colors))

    def color_table(self, *, ignore_index: int) -> dict[Color, int] | None:
        """Colour -> id for RGB masks, or None when no colours are given. UserError for a missing or double colour."""
        if not any(self.colors):
            return None
        table: dict[Color, int] = dict.fromkeys(self.ignore_colors, ignore_index)
        for index, (name, color) in enumerate(zip(self.names, self.colors, strict=True)):
            if color is None:
                raise UserError(f"class {name!r} has no colour while others have; give every class one")
            if color in table:
                owner = self.names[table[color]] if table[color] != ignore_index else IGNORE_NAME
                raise UserError(f"classes {owner!r} and {name!r} have the same colour {color}; give each its own")
            table[color] = index
        return table


def find_class_list(folder: Path) -> Path:
    """The class list in a data set's folder. UserError that shows how to write one."""
    for name in FILE_NAMES:
        if (folder / name).is_file():
            return folder / name
    raise UserError(
        f"no class list in {folder}; write classes.txt there with one class name a line (id 0 first), "
        "or classes.csv with the columns name,r,g,b if the masks are RGB colours"
    )


def read_class_list(source: str | Path | Sequence[str], *, max_classes: int | None = 255) -> ClassList:
    """Read a class list from a file, or take the names themselves. `max_classes` is what 8-bit masks can hold."""
    if not isinstance(source, (str, Path)):
        return _checked([{"name": name} for name in source], source="classes", max_classes=max_classes)
    path = Path(source).expanduser()
    if not path.is_file():
        raise UserError(f"class list {path} does not exist; check the path")
    suffix = path.suffix.lower()
    try:
        text = path.read_text(encoding="utf-8-sig")  # a byte order mark, as spreadsheets write it, is not a name
        if suffix == ".json":
            entries = _entries(json.loads(text))
        elif suffix in (".yaml", ".yml"):
            import yaml

            entries = _entries(yaml.safe_load(text))
        elif suffix == ".csv":
            entries = _csv_entries(text)
        elif suffix == ".txt":
            entries = [_line_entry(line) for line in text.splitlines() if line.strip() and not line.startswith("#")]
        else:
            raise UserError(f"class list {path} ends in {suffix!r}; write it as .json, .yaml, .csv or .txt")
    except UserError:
        raise
    except Exception as error:  # whatever the parser of that format raises
        raise UserError(
            f"cannot read class list {path}: {error}; see docs/your-data.md for the forms it may take"
        ) from error
    return _checked(entries, source=str(path), max_classes=max_classes)


def voc_palette(num_classes: int) -> Palette:
    """The colour map of the PASCAL VOC development kit: id bits spread over the bits of red, green and blue."""
    palette = []
    for index in range(num_classes):
        color, bits = [0, 0, 0], index
        for shift in range(7, -1, -1):
            for channel in range(3):
                color[channel] |= ((bits >> channel) & 1) << shift
            bits >>= 3
        palette.append((color[0], color[1], color[2]))
    return tuple(palette)


def palette_from_hex(text: str) -> Palette:
    """Colours written as `rrggbb`, separated by blanks."""
    return tuple((int(word[:2], 16), int(word[2:4], 16), int(word[4:], 16)) for word in text.split())


def _entries(data: Any) -> list[dict[str, Any]]:
    """JSON or YAML to a list of {"name", "color"?, "id"?}."""
    if isinstance(data, dict) and isinstance(data.get("classes"), (list, dict)):
        data = data["classes"]
    if isinstance(data, dict):
        if all(str(key).isdigit() for key in data):  # {id: name}
            return [
                {"id": int(key), "name": value} for key, value in sorted(data.items(), key=lambda item: int(item[0]))
            ]
        return [{"name": key, "color": value} for key, value in data.items()]
    if isinstance(data, list):
        return [entry if isinstance(entry, dict) else {"name": entry} for entry in data]
    raise UserError(f"a class list must be a list or a mapping, not {type(data).__name__}")


_COLUMNS = {
    "name": "name", "class": "name", "label": "name", "id": "id", "index": "id",
    "r": "r", "red": "r", "g": "g", "green": "g", "b": "b", "blue": "b", "color": "color", "colour": "color",
}  # fmt: skip


def _csv_entries(text: str) -> list[dict[str, Any]]:
    rows = [row for row in csv.reader(io.StringIO(text), skipinitialspace=True) if any(cell.strip() for cell in row)]
    header = [_COLUMNS.get(cell.strip().lower()) for cell in rows[0]] if rows else []
    if "name" not in header:
        raise UserError(f"the first line of a CSV class list names its columns, such as name,r,g,b; found {rows[:1]}")
    entries = []
    for row in rows[1:]:
        cells = {key: cell.strip() for key, cell in zip(header, row, strict=False) if key and cell.strip()}
        entry: dict[str, Any] = {key: cells[key] for key in ("name", "id", "color") if key in cells}
        if {"r", "g", "b"} <= cells.keys():
            entry["color"] = [cells["r"], cells["g"], cells["b"]]
        entries.append(entry)
    return entries


def _line_entry(line: str) -> dict[str, Any]:
    """`name`, `name r g b` or `r g b name`, separated by blanks, tabs or commas."""
    words = re.split(r"[\s,;]+", line.strip())
    if len(words) >= 4 and all(word.isdigit() for word in words[-3:]):
        return {"name": " ".join(words[:-3]), "color": words[-3:]}
    if len(words) >= 4 and all(word.isdigit() for word in words[:3]):
        return {"name": " ".join(words[3:]), "color": words[:3]}
    return {"name": line.strip()}


def _checked(entries: Sequence[dict[str, Any]], *, source: str, max_classes: int | None) -> ClassList:
    names: list[str] = []
    known: set[str] = set()
    colors: list[Color | None] = []
    ignored: list[Color] = []
    for entry in entries:
        name = str(entry.get("name", "")).strip()
        if not name:
            raise UserError(f"class list {source} has an entry without a name: {entry}; name every class")
        color = None if entry.get("color") is None else _color(entry["color"], name=name, source=source)
        if name.lower() == IGNORE_NAME:
            ignored += [color] if color else []
            continue
        if name in known:
            raise UserError(f"class list {source} names {name!r} twice; names must differ")
        if "id" in entry and int(entry["id"]) != len(names):
            raise UserError(
                f"class list {source} gives {name!r} the id {entry['id']} where {len(names)} is next; "
                "list the classes in id order from 0, without gaps"
            )
        names.append(name)
        known.add(name)
        colors.append(color)
    if not names or (max_classes is not None and len(names) > max_classes):
        most = "any number above" if max_classes is None else f"to {max_classes}"
        raise UserError(f"class list {source} has {len(names)} classes; 1 {most} are possible")
    return ClassList(names=tuple(names), colors=tuple(colors), ignore_colors=tuple(ignored))


def _color(value: Any, *, name: str, source: str) -> Color:
    """[r, g, b] or "#rrggbb"."""
    if isinstance(value, str) and re.fullmatch(r"#?[0-9a-fA-F]{6}", value):
        digits = value.lstrip("#")
        return int(digits[:2], 16), int(digits[2:4], 16), int(digits[4:], 16)
    try:
        red, green, blue = (int(part) for part in value)
    except (TypeError, ValueError):
        red = green = blue = -1
    if not all(0 <= part <= 255 for part in (red, green, blue)):
        raise UserError(f"class {name!r} in {source} has the colour {value!r}; give [r, g, b] of 0..255 or '#rrggbb'")
    return red, green, blue
