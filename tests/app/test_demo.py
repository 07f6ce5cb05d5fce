"""The demo from end to end, two steps long."""

from pathlib import Path

import pytest

from densevit.app.demo import run_demo
from densevit.errors import UserError


def test_demo_leaves_what_the_documentation_promises(tmp_path: Path) -> None:
    result = run_demo(tmp_path / "demo", num_steps=2)
    for name in ("model.safetensors", "curves.png", "strip.png", "metrics.csv", "config.yaml", "confusion.png"):
        assert (tmp_path / "demo" / name).stat().st_size > 0, name
    street = sorted(path.stem for path in (tmp_path / "demo" / "street").iterdir())
    overlays = sorted(path.name for path in (tmp_path / "demo" / "predictions").glob("*_overlay.png"))
    assert overlays == [f"{stem}_overlay.png" for stem in street]
    assert 0 <= result.scores.mean_iou <= 1
    with pytest.raises(UserError, match="not empty"):
        run_demo(tmp_path / "demo", num_steps=2)
