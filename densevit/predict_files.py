"""Many picture files through a predictor: which ones, under which names, and what went wrong."""

import glob
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from densevit.data.image_io import IMAGE_SUFFIXES
from densevit.errors import UserError
from densevit.predictor import Predictor


@dataclass(frozen=True, kw_only=True)
class FileOutcome:
    """What became of one picture."""

    path: Path
    """The picture."""
    written: list[Path] = field(default_factory=list)
    """Files written for it; none if it failed."""
    error: str | None = None
    """Why it was skipped, in one sentence; None if it was not."""


def find_pictures(sources: Sequence[str], *, out: Path) -> list[Path]:
    """Picture files meant by files, folders (with everything below) and wildcards, each once, in order of names.

    What folders and wildcards find below `out` are results of earlier calls and left out. UserError if a source
    matches nothing.
    """
    found: dict[Path, None] = {}
    for source in sources:
        matches = _matches(source)
        if len(matches) != 1 or matches[0] != Path(source).expanduser():
            matches = [path for path in matches if out.resolve() not in path.resolve().parents]
        if not matches:
            raise UserError(
                f"no pictures match {source!r} (the results in {out} do not count); "
                "give a file, a folder of images or a quoted wildcard"
            )
        found.update(dict.fromkeys(matches))
    return list(found)


def output_stems(pictures: Sequence[Path]) -> dict[Path, Path]:
    """A distinct relative path without suffix for each picture: its place below the folder common to all.

    Where only the suffixes differ (a.jpg, a.png), the first keeps the name and the others carry theirs: a, a_png.
    """
    if not pictures:
        return {}
    absolute = [path.absolute() for path in pictures]
    common = Path(os.path.commonpath([path.parent for path in absolute]))
    stems: dict[Path, Path] = {}
    taken: set[str] = set()
    for picture, path in zip(pictures, absolute, strict=True):
        place = path.relative_to(common)
        # Compared without case: some file systems do not tell A.png from a.png.
        choice = next(name for name in _names(place) if str(name).casefold() not in taken)
        taken.add(str(choice).casefold())
        stems[picture] = choice
    return stems


def predict_files(
    predictor: Predictor,
    stems: Mapping[Path, Path],
    *,
    out: Path,
    probabilities: bool = False,
    confidence: bool = False,
    alpha: float = 0.55,
    submission: Callable[..., Path] | None = None,
) -> Iterator[FileOutcome]:
    """Segment the pictures of `stems` one by one and write each result at its stem below `out`.

    With a `submission` writer only the test server's file is written, flat in `out` under the picture's own stem.
    A picture that cannot be read is reported and skipped; an output that cannot be written raises OSError.
    """
    for picture, stem in stems.items():
        try:
            result = predictor(picture, probabilities=probabilities, confidence=confidence)
            if submission is not None:
                written = [submission(result.labels, stem=picture.stem, folder=out)]
            else:
                written = result.save(out / stem.parent, stem.name, alpha=alpha)
        except UserError as error:
            yield FileOutcome(path=picture, error=str(error))
        else:
            yield FileOutcome(path=picture, written=written)


def check_submission_names(pictures: Iterable[Path]) -> None:
    """UserError if two pictures would get the same name in a flat folder."""
    seen: dict[str, Path] = {}
    for picture in pictures:
        first = seen.setdefault(picture.stem, picture)
        if first != picture:
            raise UserError(f"{first} and {picture} would both become {picture.stem}.png; predict them separately")


def _names(place: Path) -> Iterator[Path]:
    """Output names to try for one picture: a, a_png, a_png_2, a_png_3 ..."""
    yield place.with_suffix("")
    with_suffix = f"{place.stem}_{place.suffix.lstrip('.')}"
    yield place.with_name(with_suffix)
    for number in itertools.count(2):
        yield place.with_name(f"{with_suffix}_{number}")


def _matches(source: str) -> list[Path]:
    path = Path(source).expanduser()
    if path.is_file():
        return [path]  # named by the user: whatever its suffix, reading it will tell
    if path.is_dir():
        below = (Path(folder) / name for folder, _, names in os.walk(path) for name in names)
        return sorted(file for file in below if _is_picture(file))
    return sorted(Path(match) for match in glob.glob(str(path), recursive=True) if _is_picture(Path(match)))


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
