"""Many picture and video files through a predictor: which ones, under which names, and what went wrong."""

import glob
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from densevit.data.image_io import IMAGE_SUFFIXES
from densevit.errors import UserError
from densevit.predict_video import OnFrame, predict_video
from densevit.predictor import Predictor
from densevit.video_io import is_video


@dataclass(frozen=True, kw_only=True)
class FileOutcome:
    """What became of one picture or video."""

    path: Path
    """The picture or video."""
    written: list[Path] = field(default_factory=list)
    """Files written for it; none if it was skipped."""
    error: str | None = None
    """Why it was skipped, or what of a video is missing, in one sentence; None if all went well."""


def find_pictures(sources: Sequence[str], *, out: Path) -> list[Path]:
    """Picture and video files meant by files, folders (with everything below) and wildcards, each once.

    Each source's are in order of names. What folders and wildcards find below `out` are results of earlier calls and
    left out. UserError if a source matches nothing.
    """
    found: dict[Path, None] = {}
    for source in sources:
        matches = _matches(source)
        others = matches
        if len(matches) != 1 or matches[0] != Path(source).expanduser():
            others = [path for path in matches if out.resolve() not in path.resolve().parents]
        if not others:
            results = f" but results of earlier calls in {out}" if matches else ""
            raise UserError(
                f"no pictures match {source!r}{results}; give a file, a folder of pictures or a quoted wildcard"
            )
        found.update(dict.fromkeys(others))
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
    every: int = 1,
    on_frame: OnFrame | None = None,
) -> Iterator[FileOutcome]:
    """Segment the pictures and videos of `stems` one by one and write each result at its stem below `out`.

    A video becomes `<stem>_overlay.mp4`; `every` and `on_frame` are those of `predict_video`. With a `submission`
    writer only the test server's file is written, flat in `out` under the picture's own stem. What cannot be read is
    reported and skipped; an output that cannot be written raises OSError.
    """
    for picture, stem in stems.items():
        target = out / stem
        problem = None
        try:
            if is_video(picture):
                written = [target.with_name(f"{stem.name}_overlay.mp4")]
                problem = predict_video(predictor, picture, written[0], every=every, alpha=alpha, on_frame=on_frame)
            else:
                result = predictor(picture, probabilities=probabilities, confidence=confidence)
                if submission is not None:
                    written = [submission(result.labels, stem=picture.stem, folder=out)]
                else:
                    written = result.save(target.parent, target.name, alpha=alpha)
        except UserError as error:
            yield FileOutcome(path=picture, error=str(error))
        else:
            yield FileOutcome(path=picture, written=written, error=problem)


def check_pictures_only(pictures: Iterable[Path], *, option: str) -> None:
    """UserError if there is a video, for which `option` means nothing."""
    if video := next(filter(is_video, pictures), None):
        raise UserError(f"{option} is for pictures, but {video} is a video; leave one of them out")


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
        return sorted(file for file in below if _is_input(file))
    return sorted(Path(match) for match in glob.glob(str(path), recursive=True) if _is_input(Path(match)))


def _is_input(path: Path) -> bool:
    is_known = path.suffix.lower() in IMAGE_SUFFIXES or is_video(path)
    return is_known and not path.name.startswith(".") and path.is_file()
