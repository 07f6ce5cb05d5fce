"""Name -> data set: one plain dict, the only look-up by string. A new data set is one file and one line here."""

import difflib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from densevit.annotations import check_options
from densevit.data.ade20k import ADE20K
from densevit.data.base import Transform
from densevit.data.camvid import CamVid
from densevit.data.cifar10 import CIFAR10
from densevit.data.cityscapes import Cityscapes
from densevit.data.coco import Coco
from densevit.data.folder import Folder
from densevit.data.hf_datasets import HuggingFaceDataset
from densevit.data.image_folder import ImageFolder
from densevit.data.imagenet import ImageNet
from densevit.data.imagenet_v2 import ImageNetV2
from densevit.data.pascal_context import PascalContext
from densevit.data.scenes import ScenesClassification, ScenesDetection, ScenesSegmentation
from densevit.data.shards import Shards
from densevit.data.yolo import Yolo
from densevit.errors import UserError, unknown_name

DATASETS: dict[str, Callable[..., Dataset[dict[str, Any]]]] = {
    "ade20k": ADE20K,
    "camvid": CamVid,
    "cifar10": CIFAR10,
    "cityscapes": Cityscapes,
    "coco": Coco,
    "folder": Folder,
    "huggingface": HuggingFaceDataset,
    "image_folder": ImageFolder,
    "imagenet": ImageNet,
    "imagenet_v2": ImageNetV2,
    "pascal_context": PascalContext,
    "scenes": ScenesSegmentation,
    "scenes_classification": ScenesClassification,
    "scenes_detection": ScenesDetection,
    "shards": Shards,
    "yolo": Yolo,
}


def list_datasets() -> list[str]:
    """The names that `create_dataset` knows, sorted."""
    return sorted(DATASETS)


def dataset_options(name: str) -> list[str]:
    """The arguments of data set `name` beside root, split and transform. UserError for an unknown name."""
    if name not in DATASETS:
        raise unknown_name("data set", name, DATASETS)
    return sorted(inspect.signature(DATASETS[name]).parameters.keys() - {"root", "split", "transform"})


def create_dataset(
    name: str,
    *,
    root: str | Path | None = None,
    split: str = "train",
    transform: Transform | None = None,
    **args: Any,
) -> Any:
    """Build a data set by name; `args` are the keyword arguments of its class.

    UserError for an unknown name or argument (near matches named), and for a `root` that is missing or not wanted.
    """
    options = dataset_options(name)
    for key in args:
        if key not in options:
            near = difflib.get_close_matches(key, options, n=1, cutoff=0.6)
            hint = f"did you mean {near[0]!r}?" if near else f"choose one of: {', '.join(options) or '(none)'}"
            raise UserError(f"data set {name!r} has no option {key!r}; {hint}")
    check_options(f"data set {name!r}", DATASETS[name], args)
    if "root" in inspect.signature(DATASETS[name]).parameters:
        args["root"] = root
    elif root is not None:
        raise UserError(f"data set {name!r} is generated and reads no files; leave out root ({root})")
    return DATASETS[name](split=split, transform=transform, **args)
