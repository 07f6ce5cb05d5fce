"""The objects of all images of a data set in flat arrays: small, quick to cut, and shared by loading processes."""

from array import array
from typing import Any

import numpy as np
from numpy.typing import NDArray

from densevit.data.coco_masks import MaskStore
from densevit.data.detection import Objects, Size


class ObjectTable:
    """Filled object by object, image by image in any order; then `objects(image, size=)` gives those of one image.

    Boxes, areas and polygons are in any unit that `scale` of `objects` turns into pixels.
    """

    def __init__(self, num_images: int, *, with_masks: bool) -> None:
        self._images, self._labels, self._crowd = array("q"), array("q"), array("b")
        self._boxes, self._area = array("d"), array("d")
        self.masks = MaskStore() if with_masks else None
        """One for each object, filled beside `add`."""
        self._num_images = num_images
        self._order: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._first: NDArray[np.int64] = np.zeros(num_images + 1, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._images)

    def add(
        self,
        image: int,
        label: int,
        box_xyxy: tuple[float, float, float, float],
        *,
        crowd: bool = False,
        area: float = float("nan"),
    ) -> None:
        """One object of image number `image`."""
        self._images.append(image)
        self._labels.append(label)
        self._crowd.append(crowd)
        self._boxes.extend(box_xyxy)
        self._area.append(area)

    def close(self) -> None:
        """Sort the objects by image, those of one image in the order in which they came."""
        images = np.asarray(self._images, dtype=np.int64)
        self._order = np.argsort(images, kind="stable")
        self._first = np.searchsorted(images[self._order], np.arange(self._num_images + 1))

    def num_single(self) -> NDArray[np.int64]:
        """Objects of each image that are no crowd region, (num_images,)."""
        single = ~np.asarray(self._crowd, dtype=np.bool_)
        return np.bincount(np.asarray(self._images, dtype=np.int64)[single], minlength=self._num_images)

    def objects(self, image: int, *, size: Size, scale: tuple[float, float] = (1.0, 1.0)) -> Objects:
        """The objects of image number `image`, whose pixels are `size` (H, W); `scale` (x, y) multiplies lengths."""
        rows = self._order[self._first[image] : self._first[image + 1]]
        boxes = np.asarray(self._boxes).reshape(-1, 4)[rows] * (*scale, *scale)
        store = self.masks

        def draw(numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
            assert store is not None
            return store.decode(rows[numbers], size=size, scale=scale)

        return Objects(
            boxes=boxes.astype(np.float32),
            labels=_taken(self._labels, rows, np.int64),
            iscrowd=_taken(self._crowd, rows, np.bool_),
            area=_taken(self._area, rows, np.float64) * (scale[0] * scale[1]),
            masks=None if store is None else draw,
        )


def _taken(values: Any, rows: NDArray[np.int64], kind: Any) -> Any:
    """Entries `rows` of an array.array, which numpy reads without copying it."""
    return np.asarray(values)[rows].astype(kind)
