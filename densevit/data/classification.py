"""What every classification data set offers: samples {"image": Image uint8 (C, H, W), "label": int, "id": str}."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset
from torchvision import tv_tensors

from densevit.data.base import Transform
from densevit.data.image_io import read_image
from densevit.errors import UserError


class ClassificationDataset(Dataset[dict[str, Any]]):
    """Images with one class each. A subclass fills the lists and implements `read`, or derives from `ImageFiles`."""

    def __init__(
        self, labels: Sequence[int], *, ids: Sequence[str], classes: Sequence[str], transform: Transform | None = None
    ) -> None:
        self.labels = tuple(labels)
        self.ids = tuple(ids)
        self.classes = tuple(classes)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.ids)

    def image_path(self, index: int) -> Path | None:
        """The image's file, or None for a data set that is not made of single files."""
        return None

    def read(self, index: int) -> tuple[tv_tensors.Image, int]:
        """The image (C, H, W) as stored, and its class."""
        raise NotImplementedError

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(index)  # ends iteration over the data set
        image, label = self.read(index)
        sample = {"image": image, "label": label, "id": self.ids[index]}
        return self.transform(sample) if self.transform else sample


class ImageFiles(ClassificationDataset):
    """A list of (image file, class); the id is the path below `root`. `empty_classes` have no image in this split."""

    def __init__(
        self,
        files: Sequence[tuple[Path, int]],
        *,
        root: Path,
        classes: Sequence[str],
        transform: Transform | None = None,
        channels: int = 3,
    ) -> None:
        ids = [path.relative_to(root).as_posix() for path, _ in files]
        super().__init__([label for _, label in files], ids=ids, classes=classes, transform=transform)
        self.root = root
        self.channels = channels
        used = set(self.labels)
        self.empty_classes = tuple(name for index, name in enumerate(self.classes) if index not in used)

    def image_path(self, index: int) -> Path:
        return self.root / self.ids[index]

    def read(self, index: int) -> tuple[tv_tensors.Image, int]:
        return read_image(self.image_path(index), channels=self.channels), self.labels[index]


def check_label(label: int, *, num_classes: int, name: str) -> int:
    """`label`, or UserError where it is outside the class list."""
    if not 0 <= label < num_classes:
        raise UserError(
            f"{name} has class {label}, but with {num_classes} classes a class is 0 .. {num_classes - 1}; "
            "correct the label, or list the missing classes"
        )
    return label
