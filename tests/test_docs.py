"""Generated tables and links of the documentation are up to date."""

import re
from pathlib import Path

from densevit.cli.recipes import _rows, markdown_table

ROOT = Path(__file__).resolve().parents[1]


def test_recipes_page_has_the_table_of_the_code() -> None:
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert markdown_table(_rows()) in page, "run: densevit recipes --format markdown, and paste it into docs/recipes.md"


def test_links_lead_to_files() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "benchmarks" / "README.md"]:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
            if not target.startswith(("http://", "https://")):
                assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"
