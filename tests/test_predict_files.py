"""Which files are meant, and that no result overwrites another."""

from pathlib import Path

import numpy as np
import pytest

from densevit.errors import UserError
from densevit.predict_files import check_submission_names, find_pictures, output_stems, predict_files


@pytest.fixture
def tree(tmp_path):
    for name in [
        "b.jpg",
        "a.png",
        "a.jpg",
        "notes.txt",
        ".hidden.png",
        "sub dir/a.JPG",
        "sub dir/é.png",
        "out/a_labels.png",
    ]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def names(paths, root):
    return [str(path.relative_to(root)) for path in paths]


def test_folders_files_and_wildcards(tree):
    out = tree / "out"
    everything = ["a.jpg", "a.png", "b.jpg", "sub dir/a.JPG", "sub dir/é.png"]
    assert names(find_pictures([str(tree)], out=out), tree) == everything
    assert names(find_pictures([str(tree / "*.jpg")], out=out), tree) == ["a.jpg", "b.jpg"]
    assert names(find_pictures([str(tree / "**" / "a.*")], out=out), tree) == ["a.jpg", "a.png", "sub dir/a.JPG"]
    twice = find_pictures([str(tree / "b.jpg"), str(tree)], out=out)
    assert names(twice, tree) == ["b.jpg", "a.jpg", "a.png", "sub dir/a.JPG", "sub dir/é.png"]
    assert names(find_pictures([str(tree / "notes.txt")], out=out), tree) == ["notes.txt"]  # named on purpose
    assert names(find_pictures([str(out / "a_labels.png")], out=out), tree) == ["out/a_labels.png"]


@pytest.mark.parametrize("source", ["nothing", "*.gif", "out"])
def test_nothing_matched_is_an_error(tree, source):
    with pytest.raises(UserError, match="no pictures match"):
        find_pictures([str(tree / "a.png"), str(tree / source)], out=tree / "out")


def test_stems_are_distinct_and_keep_folders(tree):
    pictures = find_pictures([str(tree)], out=tree / "out")
    stems = output_stems(pictures)
    assert [str(stem) for stem in stems.values()] == ["a", "a_png", "b", "sub dir/a", "sub dir/é"]


def test_stems_of_hard_cases():
    pictures = [
        Path("x/a.jpg"),
        Path("x/a.png"),
        Path("x/a_png.jpg"),
        Path("x/A.jpg"),
        Path("y/a.jpg"),
        Path("x/v1.2.jpg"),
    ]
    stems = [str(stem) for stem in output_stems(pictures).values()]
    assert len({stem.casefold() for stem in stems}) == len(pictures)
    assert stems == ["x/a", "x/a_png", "x/a_png_jpg", "x/A_jpg", "y/a", "x/v1.2"]
    assert output_stems([]) == {}


def test_flat_submissions_need_distinct_names():
    check_submission_names([Path("x/a.jpg"), Path("x/b.jpg")])
    with pytest.raises(UserError, match=r"would both become a\.png"):
        check_submission_names([Path("x/a.jpg"), Path("y/a.jpg")])


class FakeResult:
    labels = np.zeros((2, 3), dtype=np.int64)

    def save(self, folder, stem, *, alpha):
        return [folder / f"{stem}_labels.png"]


def test_bad_files_are_reported_and_the_rest_goes_on(tmp_path):
    def predictor(path, **_):
        if path.name == "bad.jpg":
            raise UserError("bad.jpg is cut off")
        return FakeResult()

    stems = {Path("bad.jpg"): Path("bad"), Path("d/good.jpg"): Path("d/good")}
    bad, good = predict_files(predictor, stems, out=tmp_path)
    assert bad.error == "bad.jpg is cut off"
    assert not bad.written
    assert good.error is None
    assert good.written == [tmp_path / "d" / "good_labels.png"]
