"""The data set class shown in docs/your-data.md works as printed."""

from pathlib import Path

import numpy as np
from PIL import Image

from densevit.data.check import check_dataset

PAGE = Path(__file__).parents[2] / "docs" / "your-data.md"


def test_new_data_set(tmp_path):
    blocks = [part.split("```")[0] for part in PAGE.read_text(encoding="utf-8").split("```python\n")[1:]]
    names: dict = {}
    exec(compile(blocks[-1], str(PAGE), "exec"), names)
    for kind in ("rgb", "gt"):
        (tmp_path / kind / "train").mkdir(parents=True)
    Image.new("RGB", (6, 4)).save(tmp_path / "rgb" / "train" / "a.tif")
    Image.fromarray(np.array([[0, 1, 255]] * 4, dtype=np.uint8).repeat(2, axis=1)).save(
        tmp_path / "gt" / "train" / "a.png"
    )
    data = names["Rooftops"](tmp_path)
    assert data[0]["mask"].unique().tolist() == [0, 1, 255]
    assert check_dataset(data).pixels == [8, 8]
