"""Band statistics equal those of all pixels put together."""

import numpy as np
import pytest
from PIL import Image

from densevit.data.folder import Folder
from densevit.data.stats import band_stats
from densevit.errors import UserError


def folder(root, arrays):
    for kind in ("images", "masks"):
        (root / kind / "train").mkdir(parents=True, exist_ok=True)
    (root / "classes.txt").write_text("a\nb\n")
    for index, array in enumerate(arrays):
        np.save(root / "images" / "train" / f"{index}.npy", array)
        Image.new("L", array.shape[1::-1]).save(root / "masks" / "train" / f"{index}.png")
    return Folder(root, channels=arrays[0].shape[-1])


def test_bands_of_images_of_several_sizes(tmp_path):
    rng = np.random.default_rng(0)
    arrays = [rng.normal((5, 1e6, -3, 0, 2), (1, 2, 3, 4, 0.1), (h, w, 5)) for h, w in ((6, 9), (11, 4), (3, 30))]
    arrays = [array.astype(np.float32) for array in arrays]
    stats = band_stats(folder(tmp_path, arrays))
    pixels = np.concatenate([array.reshape(-1, 5) for array in arrays]).astype(np.float64)
    np.testing.assert_allclose(stats.mean, pixels.mean(0), rtol=1e-12)
    np.testing.assert_allclose(stats.std, pixels.std(0), rtol=1e-9)
    np.testing.assert_array_equal(stats.min, pixels.min(0))
    np.testing.assert_array_equal(stats.max, pixels.max(0))
    assert stats.num_images == 3


def test_nan_is_named(tmp_path):
    arrays = [np.ones((4, 6, 2), dtype=np.float32), np.full((4, 6, 2), np.nan, dtype=np.float32)]
    with pytest.raises(UserError, match=r"1\.npy has NaN"):
        band_stats(folder(tmp_path, arrays))
