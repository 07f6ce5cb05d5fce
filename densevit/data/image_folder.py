"""One folder of images for each class.

    root/train/cat/*.jpg         root/cat/*.jpg
    root/val/cat/*.jpg           root/dog/**/*.png        with val_ratio=0.1

The classes are the folders' names in alphabetical order, or those of a class list: `classes.txt` (or .csv, .json,
.yaml) in root, which then also sets their order.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from densevit.data.base import Transform, check_root, files_in
from densevit.data.class_list import FILE_NAMES, read_class_list
from densevit.data.classification import ImageFiles
from densevit.data.image_io import IMAGE_SUFFIXES
from densevit.errors import UserError, unknown_name

LabelledFiles = list[tuple[Path, int]]


class ImageFolder(ImageFiles):
    """Images of your own, a folder for each class: {"image", "label", "id"}."""

    def __init__(
        self,
        root: str | Path,
        *,
        split: str = "train",
        transform: Transform | None = None,
        classes: str | Path | Sequence[str] | None = None,
        val_ratio: float | None = None,
        seed: int = 0,
        channels: int = 3,
        strict: bool = True,
    ) -> None:
        """`val_ratio` splits folders without train/ and val/ into the two, class by class, by `seed` alone.

        UserError for a class without images, unless `strict` is False, and for a folder that is no class.
        """
        base = check_root(root, name="image_folder", layout="train/CLASS/ and val/CLASS/, or CLASS/ folders")
        has_splits = (base / "train").is_dir() or (val_ratio is None and (base / split).is_dir())
        folder = _split_folder(base, split) if has_splits else base
        if has_splits and val_ratio is not None:
            raise UserError(f"{base} has its own train/ folder; leave out val_ratio")
        named_in = base / "train" if (base / "train").is_dir() else folder  # the same classes for every split
        names = class_names(base, named_in, classes=classes)
        files = labelled_files(folder, names, strict=strict)
        if strict and split in ("train", "all"):
            _require_folders(folder, names)
        if not has_splits and split != "all":
            files = [item for part in by_class(files) for item in _share(part, base, split, val_ratio, seed)]
        super().__init__(files, root=base, classes=names, transform=transform, channels=channels)


def class_names(base: Path, folder: Path, *, classes: str | Path | Sequence[str] | None) -> tuple[str, ...]:
    """Class names: those given, of a class list in `base`, or of the folders in `folder`."""
    if classes is None:
        classes = next((base / name for name in FILE_NAMES if (base / name).is_file()), None)
    if classes is not None:
        return read_class_list(classes, max_classes=None).names
    names = tuple(path.name for path in class_folders(folder))
    if not names:
        raise UserError(f"{folder} holds no folders; put the images of each class into a folder of its name")
    return names


def class_folders(folder: Path) -> list[Path]:
    """The visible folders inside `folder`, by name."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def labelled_files(folder: Path, names: Sequence[str], *, strict: bool) -> LabelledFiles:
    """Every image below `folder`/CLASS with its class, in class order.

    UserError for a folder that is no class, and, if `strict`, for a class folder without an image.
    """
    index_of = {name: index for index, name in enumerate(names)}
    files: LabelledFiles = []
    for path in sorted(class_folders(folder), key=lambda path: index_of.get(path.name, -1)):
        if path.name not in index_of:
            error = unknown_name("class", path.name, names) if len(names) <= 100 else f"unknown class {path.name!r}"
            raise UserError(f"{folder}: {error}; rename or remove the folder, or add it to the class list")
        found = [image for _, image in files_in(path, suffixes=IMAGE_SUFFIXES)]
        if strict and not found:
            raise UserError(
                f"class folder {path} has no image ({', '.join(IMAGE_SUFFIXES[:4])} ...); "
                "add some, remove the folder, or go on without: data.args.strict=false"
            )
        files += [(image, index_of[path.name]) for image in found]
    if not files:
        raise UserError(f"no images in the class folders of {folder}; looked for {', '.join(IMAGE_SUFFIXES)}")
    return files


def _require_folders(folder: Path, names: Sequence[str]) -> None:
    missing = [name for name in names if not (folder / name).is_dir()]
    if missing:
        raise UserError(
            f"{folder} has no folder for {len(missing)} of {len(names)} classes, such as {missing[0]!r}; "
            "add their images or correct the class list"
        )


def by_class(files: LabelledFiles) -> list[LabelledFiles]:
    """The files of each class together."""
    parts: dict[int, LabelledFiles] = {}
    for item in files:
        parts.setdefault(item[1], []).append(item)
    return list(parts.values())


def _split_folder(base: Path, split: str) -> Path:
    if not (base / split).is_dir():
        known = [path.name for path in class_folders(base)]
        raise UserError(f"{base} has no split {split!r}; it has: {', '.join(known)}")
    return base / split


def _share(files: LabelledFiles, base: Path, split: str, val_ratio: float | None, seed: int) -> LabelledFiles:
    """The part of one class's files that belongs to a split: at least one image for each where there are two."""
    if val_ratio is None:
        raise UserError(f"{base} has no train/ and val/ folders; make them, or set val_ratio=0.1 to split by chance")
    if not 0 < val_ratio < 1:
        raise UserError(f"val_ratio {val_ratio} must lie between 0 and 1, such as 0.1")
    if split not in ("train", "val"):
        raise UserError(f"val_ratio makes the splits 'train' and 'val' (and 'all'), not {split!r}")
    ranked = sorted(files, key=lambda item: _rank(item[0].relative_to(base).as_posix(), seed))
    num_val = min(max(round(val_ratio * len(ranked)), 1), len(ranked) - 1)
    return sorted(ranked[:num_val] if split == "val" else ranked[num_val:])


def _rank(name: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()
