"""Class lists in every form that the docs show give the same classes."""

import json

import pytest

from densevit.data.class_list import find_class_list, read_class_list, voc_palette
from densevit.errors import UserError

COLORED = {
    "classes.txt": "road 128 64 128\n# a comment\n\ntraffic sign 220 220 0\nignore 0 0 0\n",
    "first.txt": "128 64 128 road\n220\t220\t0\ttraffic sign\n0,0,0,ignore\n",
    "classes.csv": "name,r,g,b\nroad,128,64,128\ntraffic sign,220,220,0\nignore,0,0,0\n",
    "ids.csv": "id, class, color\n0, road, #804080\n1, traffic sign, #dcdc00\n255, ignore, #000000\n",
    "map.json": json.dumps({"road": [128, 64, 128], "traffic sign": [220, 220, 0], "ignore": [0, 0, 0]}),
    "list.json": json.dumps(
        [{"name": "road", "color": "#804080"}, {"name": "traffic sign", "color": [220, 220, 0]},
         {"name": "ignore", "color": [0, 0, 0]}]
    ),
    "classes.yaml": "classes:\n  road: [128, 64, 128]\n  traffic sign: [220, 220, 0]\n  ignore: [0, 0, 0]\n",
}  # fmt: skip


@pytest.mark.parametrize("name", COLORED)
def test_colored_lists(tmp_path, name):
    (tmp_path / name).write_text(COLORED[name], encoding="utf-8")
    listed = read_class_list(tmp_path / name)
    assert listed.names == ("road", "traffic sign")
    assert listed.palette == ((128, 64, 128), (220, 220, 0))
    assert listed.color_table(ignore_index=255) == {(0, 0, 0): 255, (128, 64, 128): 0, (220, 220, 0): 1}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "\ufeffStraße\ncar 2\n"),
        ("a.csv", "name\nStraße\ncar 2\n"),
        ("a.json", '["Straße", "car 2"]'),
        ("a.json", '{"1": "car 2", "0": "Straße"}'),
        ("a.yml", "- Straße\n- car 2\n"),
    ],
)
def test_lists_without_colors(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    listed = read_class_list(tmp_path / name)
    assert listed.names == ("Straße", "car 2")
    assert listed.color_table(ignore_index=255) is None
    assert len(set(listed.palette)) == 2


def test_names_can_be_given_directly():
    assert read_class_list(["a", "b"]).names == ("a", "b")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "", "has 0 classes"),
        ("a.txt", "car\ncar\n", "names 'car' twice"),
        ("a.csv", "road,1,2,3\n", "the first line of a CSV class list names its columns"),
        ("a.csv", "id,name\n1,car\n", "gives 'car' the id 1 where 0 is next"),
        ("a.csv", "name,r,g,b\ncar,1,2,300\n", r"'car' in .* has the colour"),
        ("a.json", "{", "cannot read class list"),
        ("a.json", '{"car": "greenish"}', "or '#rrggbb'"),
        ("a.yaml", "3", "must be a list or a mapping, not int"),
        ("a.xml", "<a/>", "ends in '.xml'"),
    ],
)
def test_bad_lists(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        read_class_list(tmp_path / name)


def test_colors_must_be_complete_and_different(tmp_path):
    (tmp_path / "a.txt").write_text("car 1 2 3\nbus\n")
    with pytest.raises(UserError, match="'bus' has no colour while others have"):
        read_class_list(tmp_path / "a.txt").color_table(ignore_index=255)
    (tmp_path / "a.txt").write_text("car 1 2 3\nbus 1 2 3\n")
    with pytest.raises(UserError, match="'car' and 'bus' have the same colour"):
        read_class_list(tmp_path / "a.txt").color_table(ignore_index=255)


def test_missing_list_says_how_to_write_one(tmp_path):
    with pytest.raises(UserError, match=r"write classes\.txt there with one class name a line"):
        find_class_list(tmp_path)


def test_voc_palette():
    # the published first colours: background, aeroplane, bicycle, bird, boat ... 21st: tv monitor
    palette = voc_palette(256)
    assert palette[:5] == ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128))
    assert palette[20] == (0, 64, 128)
    assert palette[255] == (224, 224, 192)
    assert len(set(palette)) == 256
