"""The Python examples of the HLG page run as they are written."""

import re
from pathlib import Path

import torch

DOCS = Path(__file__).parent.parent / "docs"


def test_examples_of_the_hlg_page_run_in_order():
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "hlg.md").read_text(encoding="utf-8"), re.DOTALL)
    names = {"images": torch.rand(1, 3, 64, 96)}
    for block in blocks:
        exec(block, names)
    assert [tuple(x.shape[1:]) for x in names["maps"]] == [(96, 16, 24), (192, 8, 12), (384, 4, 6), (768, 2, 3)]
    assert names["encoder"].feature_info.channels() == [192, 384, 768]
    with torch.inference_mode():
        (found,) = names["detector"].eval()([torch.rand(3, 80, 100)])
    assert found["boxes"].shape[1] == 4
