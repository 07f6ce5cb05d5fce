"""CIFAR-10 as published for Python: root/cifar-10-batches-py/, read by torchvision (Krizhevsky, 2009)."""

from pathlib import Path

import torch
from torchvision import tv_tensors
from torchvision.datasets import CIFAR10 as TorchvisionCIFAR10

from densevit.data.base import Transform, check_root
from densevit.data.classification import ClassificationDataset
from densevit.errors import UserError


class CIFAR10(ClassificationDataset):
    """50,000 + 10,000 images of 32 x 32 pixels in ten classes: {"image", "label", "id"}.

    The splits: "train" (45,000) and "val" (the last 5,000 training images), "all" (both), "test" (10,000).
    """

    num_val = 5_000

    def __init__(self, root: str | Path, *, split: str = "train", transform: Transform | None = None) -> None:
        """UserError where the published files are missing or damaged, or for another split."""
        base = check_root(root, name="cifar10", layout="cifar-10-batches-py/ (for tar shards use 'shards')")
        if split not in ("train", "val", "all", "test"):
            raise UserError(f"CIFAR-10 has the splits train, val, all and test, not {split!r}")
        try:
            source = TorchvisionCIFAR10(base, train=split != "test", download=False)
        except RuntimeError as error:
            raise UserError(
                f"{base} does not hold CIFAR-10 as published (cifar-10-batches-py/, checksums verified); "
                "unpack cifar-10-python.tar.gz there, or use the data set 'shards' for tar shards"
            ) from error
        first = len(source.data) - self.num_val if split == "val" else 0
        last = len(source.data) - self.num_val if split == "train" else len(source.data)
        self.images = source.data[first:last]
        super().__init__(
            source.targets[first:last],
            ids=[f"{split}_{index:05d}" for index in range(first, last)],
            classes=source.classes,
            transform=transform,
        )

    def read(self, index: int) -> tuple[tv_tensors.Image, int]:
        image = torch.from_numpy(self.images[index].copy()).permute(2, 0, 1).contiguous()
        return tv_tensors.Image(image), self.labels[index]
