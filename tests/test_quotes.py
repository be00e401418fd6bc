"""Figures in README and the pages are those of benchmarks/results, and none is without a source."""

import csv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def quotes(monkeypatch):
    """The module that compares pages with files of results."""
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import benchmark_tables
    import quotes

    benchmark_tables.FILES.clear()
    yield quotes
    benchmark_tables.FILES.clear()


def test_every_figure_of_the_pages_has_its_source(quotes):
    assert list(quotes.faults()) == []


def test_no_page_quotes_phrases_of_a_page_that_is_gone(quotes):
    assert {*quotes.PHRASES, *quotes.SETTINGS} <= set(quotes.pages())


def test_the_list_of_figures_without_a_file_stays_short(quotes):
    assert sum(map(len, quotes.SETTINGS.values())) <= 30


@pytest.mark.parametrize(
    "name, column, page",
    [
        ("direction", "energy_mae", "evidence"),
        ("surroundings", "mm_forces_rmse", "evidence"),
        ("finetune", "energy_mae", "evidence"),
        ("fmm_bench", "seconds", "README"),
        ("fmm_bench", "seconds", "summary"),
        ("native_race", "value", "summary"),
        ("single_runs", "value", "ase"),
        ("step_parts", "ms", "md"),
        ("model_arithmetic", "passes_ms", "questions"),
        ("md_methanol", "value", "md_electrostatics"),
        ("hydration", "value", "md_sampling"),
        ("published_speed", "training, energy and forces", "published"),
        ("shipped_model_errors", "energy_mae", "index"),
        ("streaming", "ms_per_batch", "training"),
        ("compiled_training", "step_ms", "export"),
    ],
)
def test_a_page_is_wrong_once_its_results_change(quotes, tmp_path, monkeypatch, name, column, page):
    """The numbers of one column grow or shrink by turns, in this file alone."""
    import benchmark_tables as tables

    for path in tables.RESULTS.glob("*.csv"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with (tmp_path / f"{name}.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    for k, row in enumerate(rows):
        try:
            row[column] = f"{(0.7, 1.5, 1.1)[k % 3] * float(row[column]):.6g}"
        except ValueError:
            continue
    with (tmp_path / f"{name}.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    text = quotes.path_of(page).read_text(encoding="utf-8")
    assert quotes.missing(page, text)


@pytest.mark.parametrize(
    "sentence",
    [
        "A step takes 3.7 ms here.",
        "Errors are 12 meV/Å, which is little.",
        "It is 2.5× faster than before.",
        "It is 3 times faster than before.",
        "This is five times faster than the other.",
        "The error falls by more than a factor of two.",
        "Orders cost a third more.",
        "Forces agree to 4e-11 kJ/mol.",
        "The drift is −3·10⁻⁴ of the whole.",
        "It needs 0.8 GB of memory, and 12 % of the time.",
        "We reach 4.1 ns/day.",
        "Sizes take 3 / 4 / 5 s.",
        "It takes four minutes.",
        "This is twice as fast.",
        "The error is half as large.",
        "Errors fall threefold.",
        "It has 42 000 parameters.",
    ],
)
def test_a_new_sentence_with_a_figure_is_found(quotes, sentence):
    for page in ("evidence", "README", "limits"):  # limits quotes nothing
        text = quotes.path_of(page).read_text(encoding="utf-8")
        assert list(quotes.without_source(page, text)) == []
        assert list(quotes.without_source(page, f"{text}\n{sentence}\n")), page


def test_numbers_that_are_no_results_are_let_pass(quotes):
    text = (
        "Charges within 9 Å at 300 K, steps of 0.5 fs, 368 waters and 10⁵ points. Order 2, twice "
        "differentiable.\n```python\nx = 3  # takes 5 ms\n```\n`tolerance=1e-6`, $5\\,\\%$ of it."
    )
    assert list(quotes.without_source("limits", text)) == []


def test_a_setting_that_left_its_page_is_named(quotes):
    assert quotes.unused_settings("gpu", "nothing here") == list(quotes.SETTINGS["gpu"])
