"""Text fits the width it is given and is not limited to ASCII."""

from densevit.visualize.text import load_font, shorten


def test_shorten():
    font = load_font(14)
    assert shorten("road", font=font, width=500) == "road"
    short = shorten("a very long name of a class", font=font, width=80)
    assert short.endswith("…")
    assert font.getlength(short) <= 80
    assert shorten("anything", font=font, width=0) == "…"


def test_accents_and_cyrillic_have_their_own_glyphs():
    font = load_font(14)
    missing = bytes(font.getmask("\U000f0000"))
    for letter in "éßЖ":
        assert bytes(font.getmask(letter)) != missing
