"""Pictures of every kind arrive as 8-bit RGB; masks keep their ids; a bad file is named."""

import numpy as np
import pytest
import torch
from PIL import Image

from densevit.data.image_io import colors_to_ids, read_image, read_mask
from densevit.errors import UserError

RGB = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[10, 20, 30], [40, 50, 60], [70, 80, 90]]], dtype=np.uint8)


def test_rgb_png_is_exact(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "ein Bild mit Lücken.png")
    image = read_image(tmp_path / "ein Bild mit Lücken.png")
    assert image.dtype == torch.uint8
    assert image.shape == (3, 2, 3)
    np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), RGB)


def test_exif_orientation_turns_the_picture(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # taken with the camera turned: show it rotated by 90 degrees clockwise
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=exif)
    image = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), np.rot90(RGB, k=-1))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "LA", "1", "CMYK"])
def test_other_modes_become_rgb(tmp_path, mode):
    suffix = "tif" if mode == "CMYK" else "png"
    Image.fromarray(RGB).convert(mode).save(tmp_path / f"a.{suffix}")
    image = read_image(tmp_path / f"a.{suffix}")
    expected = np.asarray(Image.fromarray(RGB).convert(mode).convert("RGB"))
    np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), expected)


def test_sixteen_bit_grey_is_scaled(tmp_path):
    values = np.array([[0, 65535, 32768], [257, 128, 129]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    image = read_image(tmp_path / "deep.png")
    assert image[0].tolist() == [[0, 255, 128], [1, 0, 1]]
    assert torch.equal(image[0], image[2])


def test_channels_one_and_four(tmp_path):
    Image.fromarray(np.dstack([RGB, RGB[..., 0]])).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", channels=1).shape == (1, 2, 3)
    assert read_image(tmp_path / "a.png", channels=4)[3].tolist() == RGB[..., 0].tolist()
    with pytest.raises(UserError, match=r"5 are asked for.*\.npy"):
        read_image(tmp_path / "a.png", channels=5)


def test_arrays_of_many_bands(tmp_path):
    bands = np.arange(2 * 3 * 7, dtype=np.int16).reshape(2, 3, 7)
    np.save(tmp_path / "last.npy", bands)
    np.save(tmp_path / "first.npy", bands.transpose(2, 0, 1))
    for name in ("last", "first"):
        image = read_image(tmp_path / f"{name}.npy", channels=7)
        assert image.dtype == torch.float32
        assert torch.equal(image, torch.from_numpy(bands).permute(2, 0, 1).float())
    with pytest.raises(UserError, match=r"shape \(2, 3, 7\); expected 5 channels"):
        read_image(tmp_path / "last.npy", channels=5)


def test_tiff_of_many_bands(tmp_path):
    tifffile = pytest.importorskip("tifffile", reason="needs the extra tiff")
    bands = np.arange(6 * 4 * 5, dtype=np.uint16).reshape(6, 4, 5)
    tifffile.imwrite(tmp_path / "bands.tif", bands)
    image = read_image(tmp_path / "bands.tif", channels=6)
    assert torch.equal(image, torch.from_numpy(bands.astype(np.float32)))


def test_bad_files_are_named(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.jpg")
    data = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").write_bytes(b"")
    for name in ("cut.jpg", "text.png", "empty.png"):
        with pytest.raises(UserError, match=f"{name}.*damaged, cut off or no picture"):
            read_image(tmp_path / name)
    with pytest.raises(UserError, match=r"gone\.png does not exist"):
        read_image(tmp_path / "gone.png")
    with pytest.raises(UserError, match="is a folder"):
        read_image(tmp_path)


@pytest.mark.parametrize("mode", ["L", "P"])
def test_index_masks_keep_their_ids(tmp_path, mode):
    ids = np.array([[0, 1, 255], [7, 200, 3]], dtype=np.uint8)
    picture = Image.fromarray(ids)
    if mode == "P":
        picture.putpalette([9, 9, 9] * 256)  # equal colours must not matter
    picture.save(tmp_path / "m.png")
    mask = read_mask(tmp_path / "m.png")
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, ids)


def test_sixteen_bit_mask_does_not_wrap(tmp_path):
    Image.fromarray(np.array([[3, 300]], dtype=np.uint16)).save(tmp_path / "wide.png")
    assert read_mask(tmp_path / "wide.png").tolist() == [[3, 300]]
    Image.fromarray(np.array([[3, 200]], dtype=np.uint16)).save(tmp_path / "narrow.png")
    assert read_mask(tmp_path / "narrow.png").dtype == np.uint8


def test_color_masks(tmp_path):
    table = {(255, 0, 0): 0, (0, 255, 0): 1, (0, 0, 255): 255, (10, 20, 30): 2, (40, 50, 60): 1, (70, 80, 90): 0}
    Image.fromarray(RGB).save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png", colors=table).tolist() == [[0, 1, 255], [2, 1, 0]]
    with pytest.raises(UserError, match=r"m\.png holds colours.*class list"):
        read_mask(tmp_path / "m.png")
    Image.fromarray(RGB).quantize(6).save(tmp_path / "p.png")
    assert read_mask(tmp_path / "p.png", colors=table, as_colors=True).tolist() == [[0, 1, 255], [2, 1, 0]]


def test_indices_stored_as_rgb(tmp_path):
    Image.fromarray(np.full((2, 3, 3), 5, dtype=np.uint8)).save(tmp_path / "m.png")
    assert (read_mask(tmp_path / "m.png") == 5).all()


def test_unknown_color_is_named():
    with pytest.raises(UserError, match=r"4 pixels of 4 colours .*such as \(0, 0, 255\); add"):
        colors_to_ids(RGB, {(255, 0, 0): 0, (0, 255, 0): 1})
    many = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    with pytest.raises(UserError, match="saved as JPEG"):
        colors_to_ids(many, {(255, 0, 0): 0})
