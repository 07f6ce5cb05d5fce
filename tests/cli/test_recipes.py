"""`densevit recipes`: the list beside the paper's numbers, and one recipe as a configuration file."""

import json

from densevit.cli.main import main
from densevit.training.recipes import RECIPES, get_recipe
from densevit.training.settings import resolve


def test_the_list_shows_the_papers_numbers(capsys):
    assert main(["recipes"]) == 0
    lines = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()}
    assert set(RECIPES) < set(lines)
    assert lines["setr_pup_vit_large_cityscapes_80k"][-3:] == ["79.34", "82.20", "no"]
    assert lines["demo"][-3:] == ["-", "-", "-"]
    assert lines["mask_rcnn_hlg_tiny_coco"][-3:] == ["44.70", "40.90", "no"]
    assert lines["retinanet_hlg_tiny_coco"][-3:] == ["43.30", "-", "no"]
    assert lines["scenes_detection"][-3:] == ["-", "-", "-"]


def test_the_list_as_json(capsys):
    assert main(["recipes", "--format", "json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == list(RECIPES)
    row = rows["setr_mla_deit_base_ade20k_160k"]
    assert (row["paper"], row["paper_miou"], row["paper_miou_ms"]) == ("Tables 4, 5", 46.2, 47.7)
    assert (row["model"], row["data"], row["num_steps"]) == ("setr_mla_deit_base", "ade20k", 160_000)
    assert row["run_here_miou"] is None
    row = rows["mask_rcnn_hlg_small_coco"]
    assert (row["task"], row["paper"], row["paper_box_ap"], row["paper_mask_ap"]) == (
        "detection",
        "Table 11",
        46.0,
        42.0,
    )


def test_the_tables_as_markdown(capsys):
    assert main(["recipes", "--format", "markdown"]) == 0
    segmentation, detection = capsys.readouterr().out.strip().split("\n\n")
    assert "| `setr_pup_vit_large_cityscapes_80k` | 80,000 | Tables 3, 6 | 79.34 | 82.20 | no |" in segmentation
    assert detection.splitlines()[0] == "| recipe | steps | of the paper | box AP there | mask AP there | run here |"
    assert "| `retinanet_hlg_tiny_coco` | 87,960 | Table 10 | 43.30 | - | no |" in detection
    assert "coco" not in segmentation


def test_one_recipe_is_a_configuration_file(capsys, tmp_path):
    assert main(["recipes", "demo"]) == 0
    (tmp_path / "demo.yaml").write_text(capsys.readouterr().out)
    assert resolve(config=tmp_path / "demo.yaml").train == get_recipe("demo").train
    assert main(["recipes", "demo", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["train"]["num_steps"] == get_recipe("demo").train.num_steps
