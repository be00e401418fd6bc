"""Figures in README and the pages: each one is quoted from a file of results, or is a setting.

    python docs/quotes.py

prints the phrases that pages lack since a file of results changed, and figures without a source.
`phrases.py` writes each phrase that quotes a measurement from its file; `SETTINGS` below names the
phrases whose numbers were not measured. A new sentence with a figure belongs into one of the two.
"""

import re
from collections.abc import Iterator

from phrases import PHRASES
from sources import DOCS, ROOT, path_of

# not measured: what somebody chose, aims at, defines, or says in words
SETTINGS: dict[str, tuple[str, ...]] = {
    "data": ("above 0.05 eV/Å", "some 20 to 60 eV"),
    "evidence": ("differences of ten or twenty percent", "Each trains for 600 seconds"),
    "gpu": (
        "440 s",
        "200 s",
        "more than 120 s",
        "(2.7 against 86 microseconds)",
        "13.5 ms on an RTX 4090",
        "4 times as fast",
        "room for 15 % more pairs",
        "take 0.9 GB in float64",  # 117 of 961 x 961
    ),
    "howto_train": ("far beyond 10 eV/Å",),
    "limits": ("beyond 1.3 times its usual length",),
    "md": ("more than 2 %",),
    "model": (
        "below 1.3 times the sum of the covalent radii",
        "(below 1.8 times)",
    ),
    "published": ("−8e18 eV",),  # tested
    "questions": (
        "Born's formula puts at 0.8 eV",  # k / 2R (1 - 1/78), R = 9 Å
        "gave −1244 eV, where B3LYP/6-31G\\* gives −2079 eV",  # a former model
    ),
    "summary": ("600 s of one core each",),
    "theory_mended": ("too small by a factor of 3",),
    "trust": (
        "99.5 %",
        "a quarter more",
        "less 3 %",
        "less 7 %",
        "within 1.3 times the sums",
    ),
    "training": (
        "a share of 100 energies is itself known to 5 %",
        "agree to 1 meV",
        "(−20 to 10 eV",
    ),
}

_NUMBER = r"\d(?:[\d.,]| \d{3}\b)*(?:·10[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+|e-?\d+)?"
_WORD = r"(?:a|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty)"
_UNIT = (
    r"(?:µs|ms|s|min|minutes|seconds|hours|meV|eV|me Å|kJ/mol|kT|ns|kB|MB|GB|%|percent|×|times"
    r"|pairs/s|G[Ff]lop/s|1/cm|D|parameters)"
)
# a number with a unit in which results are given, or the same in words
FIGURE = re.compile(
    rf"(?<![\w.]){_NUMBER}(?: ?[/,–] ?{_NUMBER})* ?{_UNIT}(?![\w⁻])"
    rf"|\d·10⁻|\b{_WORD} (?:to {_WORD} )?(?:times (?:faster|slower|better|worse|smaller|larger"
    r"|shorter|longer|more|as)|percent|minutes|seconds|hours|e?V\b)"
    r"|\bfactors? of (?:\d|more|about|two|three|four|five|ten)"
    r"|\ba (?:third|quarter|half) (?:more|less)\b|\b(?:twice|half|a third) as (?:fast|slow|long"
    rf"|many|good|large)|\b{_WORD}fold\b|\d-fold\b|\bhalf (?:the|its|their) (?:time|error|memory)"
)  # fmt: skip
# what is no prose: blocks of code and formulas, formulas, code, addresses of links
_NOT_PROSE = (
    re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL),
    re.compile(r"\$\$.*?\$\$", re.DOTALL),
    re.compile(r"\$[^$\n]+\$|`[^`\n]+`|(?<=\])\([^)\n]*\)|^:(?:width|alt):.*$", re.MULTILINE),
)


def pages() -> list[str]:
    """Return the names of all pages, README among them."""
    return ["README", *sorted(path.stem for path in DOCS.glob("*.md"))]


def phrases_of(page: str) -> list[str]:
    """Return what a page quotes from files of results."""
    return PHRASES[page]() if page in PHRASES else []


def missing(page: str, text: str) -> list[str]:
    """Return the phrases that a page should hold and does not."""
    return [phrase for phrase in phrases_of(page) if phrase not in text]


def unused_settings(page: str, text: str) -> list[str]:
    """Return the settings that are named here and not on the page."""
    return [phrase for phrase in SETTINGS.get(page, ()) if phrase not in text]


def without_source(page: str, text: str) -> Iterator[str]:
    """Yield every figure of a page, in its sentence, that no phrase and no setting holds."""
    known = [*phrases_of(page), *SETTINGS.get(page, ())]
    for phrase in sorted(known, key=len, reverse=True):
        text = text.replace(phrase, "\0")
    for pattern in _NOT_PROSE:
        text = pattern.sub("\0", text)
    for found in FIGURE.finditer(text):
        before, after = text[: found.start()].rpartition("\n")[2], text[found.end() :]
        yield f"{before[-60:]}»{found[0]}«{after.partition(chr(10))[0][:40]}".replace("\0", "…")


def faults() -> Iterator[str]:
    """Yield all that is wrong with the figures of all pages."""
    for page in pages():
        path = path_of(page)
        text = path.read_text(encoding="utf-8")
        name = path.relative_to(ROOT)
        yield from (f"{name} should say: {phrase}" for phrase in missing(page, text))
        yield from (f"SETTINGS names for {name}, which lacks it: {phrase}"
                    for phrase in unused_settings(page, text))  # fmt: skip
        yield from (f"{name} has a figure without a source: {figure}"
                    for figure in without_source(page, text))  # fmt: skip


if __name__ == "__main__":
    found = list(faults())
    print("\n".join(found) or "Every figure has its source.")
    raise SystemExit(bool(found))
