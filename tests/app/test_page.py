"""The page of results: text is escaped, pictures are linked relative to it."""

from html.parser import HTMLParser

from densevit.app.page import Section, write_page


class Collected(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.texts, self.images = [], [], []

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.images.append(dict(attrs))
        elif tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else None, data.strip()))


def test_page_is_well_formed_and_escapes_what_it_is_given(tmp_path):
    section = Section(
        title="A < B & C",
        text="one & two",
        numbers=[("67 %", "mean IoU <val>")],
        figures=[(tmp_path / "run" / 'a"b.png', 'say "cheese"')],
        commands=["densevit predict a.jpg", "densevit validate --model <run>"],
    )
    write_page(tmp_path / "index.html", title="T", lead="L", sections=[section, section])
    page = Collected()
    page.feed((tmp_path / "index.html").read_text(encoding="utf-8"))
    assert page.open == []
    assert page.images == [{"src": 'run/a"b.png', "alt": 'say "cheese"'}] * 2
    for expected in (
        ("h1", "T"),
        ("h2", "A < B & C"),
        ("b", "67 %"),
        ("span", "mean IoU <val>"),
        ("pre", "densevit predict a.jpg\ndensevit validate --model <run>"),
    ):
        assert expected in page.texts
