"""The documentation is true: its snippets run, and its tables name what the code has."""

import ast
import csv
import re
import shlex
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGES = [DOCS.parent / "README.md", *sorted(DOCS.glob("*.md"))]


def _blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """Return first line number and text of every fenced block of a language."""
    text = page.read_text(encoding="utf-8")
    found = re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(text[: m.start(1)].count("\n"), m.group(1)) for m in found]


WITH_PYTHON = [page for page in PAGES if _blocks(page, "python")]


def test_the_pages_are_there():
    names = {page.stem for page in WITH_PYTHON}
    assert {"getting_started", "multipoles", "operator", "model", "data", "training"} <= names


PEROXIDE = [[0.73, 0, 0], [-0.73, 0, 0], [0.9, 0.9, 0.3], [-0.9, 0.9, -0.3]]
SLOW_PAGES = ("export",)  # traces models for minutes; tests/gnn/test_export.py does it small


@pytest.fixture(scope="module")
def known():
    """Formulas and charges of the molecules that the shipped model was trained on."""
    from gnn.data import load_shipped, split_shipped

    return {_formula(frame.system) for frame in split_shipped(load_shipped())[0]}


@pytest.fixture
def only_known_molecules(monkeypatch, known):
    """Refuse that the model that ships evaluates a molecule that it never saw."""
    import torch

    from gnn import load_model
    from gnn.potential import Potential

    shipped = load_model()
    evaluate = Potential.evaluate

    def checked(self, systems, *args, **options):
        if type(self) is type(shipped) and torch.equal(self.baseline, shipped.baseline):
            found = {_formula(getattr(part, "system", part)) for part in systems}
            assert found <= known, "an example asks the shipped model for what it does not know"
        return evaluate(self, systems, *args, **options)

    monkeypatch.setattr(Potential, "evaluate", checked)


def _formula(system):
    return frozenset(Counter(system.numbers.tolist()).items()), float(system.charge)


def _printed(block: str) -> list[str]:
    """Return what a block says that it prints: comments behind print that begin with a number."""
    return re.findall(r"^ *print\(.*\)  # (-?\d.*)$", block, re.MULTILINE)


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.slow] * (page.stem in SLOW_PAGES), id=page.stem)
        for page in WITH_PYTHON
    ],
)
def test_snippets_of_a_page_run_and_print_what_they_say(
    page, tmp_path, monkeypatch, capsys, only_known_molecules
):
    if page.stem == "trust":  # about molecules that the model does not know
        monkeypatch.undo()
    if page.stem == "distributed":
        pytest.importorskip("mpi4py.MPI", reason="needs mpi4py and an MPI (extra 'mpi')")
    if page.stem == "md_engines":
        _register_potentials()
    monkeypatch.chdir(tmp_path)  # some write files
    names: dict = {"__name__": "__docs__"}
    for line, block in _blocks(page, "python"):
        # blank lines in front give tracebacks the line numbers of the page
        exec(compile("\n" * line + block, str(page), "exec"), names)
        output = capsys.readouterr().out.splitlines()
        assert [text for text in _printed(block) if text not in output] == []
    if page.stem == "ase":
        _check_vibrations(names["wavenumbers"].real)


def _register_potentials():
    """Tell OpenMM-ML of our models, as the entry points of a package that was installed do."""
    pytest.importorskip("openmm", reason="needs the package openmm (extra 'engines')")
    mlpotential = pytest.importorskip(
        "openmmml.mlpotential", reason="needs the package openmmml (extra 'engines')"
    )
    from gnn.engines.openmmml_factories import ModelPotentialFactory

    mlpotential.MLPotential.registerImplFactory("anisole", ModelPotentialFactory())


def _check_vibrations(wavenumbers):
    """The page's example gives the model's column of the page's table."""
    with (DOCS.parent / "benchmarks/results/vibrations.csv").open(encoding="utf-8") as stream:
        table = [float(row["model"]) for row in csv.DictReader(stream)]
    assert max(abs(a - b) for a, b in zip(wavenumbers, table, strict=True)) < 3  # 1/cm


def test_first_examples_print_an_energy():
    for page in (DOCS.parent / "README.md", DOCS / "index.md"):
        assert any("eV" in text for _, block in _blocks(page, "python") for text in _printed(block))


WATER = [8, 1, 1], [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]


def test_shipped_model_is_not_asked_for_what_it_never_saw(only_known_molecules):
    from gnn import System, load_model

    with pytest.raises(AssertionError, match="does not know"):
        load_model().evaluate([System([8, 8, 1, 1], PEROXIDE)])


def test_what_the_pages_say_of_the_shipped_model():
    from gnn import System, load_model

    model = load_model()
    energy = model.evaluate([System(*WATER)])[0]["energy"]
    assert abs(energy + 2079) < 0.5  # questions.md: what a former model gave, and B3LYP
    size = round(sum(p.numel() for p in model.parameters()), -3)
    evidence = (DOCS / "evidence.md").read_text(encoding="utf-8")
    assert f"{size:,} parameters".replace(",", " ") in evidence


def test_energies_of_examples_are_those_of_the_labels():
    """The page's methanol, alone, is within 20 meV of the nearest vacuum label (same geometry)."""
    import numpy as np

    from gnn import load_model
    from gnn.data import load_shipped

    blocks = _blocks(DOCS / "getting_started.md", "python")
    (block,) = (b for _, b in blocks if "methanol = System(" in b)
    names: dict = {}
    exec(block, names)
    methanol = names["methanol"]
    least = min(frame.energy for frame in load_shipped(["meoh"], vacuum=True))
    alone = type(methanol)(methanol.numbers, methanol.positions)
    energy = load_model().evaluate([alone])[0]["energy"]
    assert abs(energy - least) < 0.02  # the geometry is that frame's, rounded
    assert names["result"]["energy"] < energy  # water binds
    total = names["result"]["forces"].sum(axis=0) + names["result"]["mm_forces"].sum(axis=0)
    assert np.abs(total).max() < 1e-4


def _anchors(page: Path) -> set[str]:
    """Return the anchors that headings and labels of a page make."""
    text = page.read_text(encoding="utf-8")
    heads = [
        re.sub(r"[^\w\- ]", "", h.lower()) for h in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    ]
    return {h.strip().replace(" ", "-") for h in heads} | set(
        re.findall(r"^\((.*)\)=$", text, re.MULTILINE)
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_between_pages_lead_somewhere(page):
    text = re.sub(
        r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )
    broken = []
    for target in re.findall(r"\]\(([^)\s]*)\)", text):
        file, _, anchor = target.partition("#")
        if not file.startswith(("http", "_generated")):
            path = page.parent / file if file else page
            known = (
                path.suffix != ".md" or not anchor or (path.is_file() and anchor in _anchors(path))
            )
            broken += [] if path.is_file() and known else [target]
    assert broken == []


def _prose(page: Path) -> str:
    """Return a page without blocks of code."""
    text = page.read_text(encoding="utf-8")
    return re.sub(r"^```(?!\{figure).*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


TEXTS = [*PAGES, DOCS.parent / "CONTRIBUTING.md"]
# made by commands that the pages name
MADE = {"docs/_build/html", "benchmarks/results/gpu.csv", "benchmarks/results/gpu_stages.csv"}
PLACES = "multipoles|fmm|gnn|docs|tests|benchmarks"


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: page.stem)
def test_paths_in_the_text_exist(page):
    root, text = DOCS.parent, _prose(page)
    named = re.findall(rf"`(?:python |bash )?((?:{PLACES})/[\w./-]*)[^`]*`", text)
    named += [f"docs/{path}" for path in re.findall(r"^:::\{figure\} (\S+)$", text, re.MULTILINE)]
    assert [path for path in named if path not in MADE and not (root / path).exists()] == []


def _is_known(name: str) -> bool:
    """Return whether a dotted name is a module, or a name in the module that its start names."""
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        path = DOCS.parent.joinpath(*parts[:n])
        source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if source.is_file():
            rest = parts[n] if n < len(parts) else ""
            defined = (
                rf'(?:def|class) {rest}\b|^{rest} *[:=]|import .*\b{rest}\b|^ +{rest},$|"{rest}"'
            )
            text = source.read_text(encoding="utf-8")
            return not rest or re.search(defined, text, re.MULTILINE) is not None
    return False


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: page.stem)
def test_modules_and_names_in_the_text_exist(page):
    named = re.findall(r"`((?:multipoles|fmm|gnn)(?:\.\w+)+)(?:\([^`]*)?`", _prose(page))
    assert [name for name in named if not _is_known(name)] == []


def test_names_that_are_gone_are_found():
    assert _is_known("fmm.FMM") and _is_known("gnn.units.COULOMB") and _is_known("fmm.tree")
    assert not _is_known("fmm.FNN") and not _is_known("fmm.forest") and not _is_known("gnn.no.one")


def test_every_page_is_in_the_table_of_contents():
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    listed = {
        name
        for block in re.findall(r"^```\{toctree\}\n(.*?)^```$", index, re.MULTILINE | re.DOTALL)
        for name in block.split()
    }
    assert {page.stem for page in PAGES[1:]} - {"index"} <= listed


def test_nothing_is_installed_from_an_index_that_has_it_not():
    """There is no release: pages and messages say `pip install '.[extra]'`, in a checkout."""
    root = DOCS.parent
    sources = [p for part in ("gnn", "fmm", "multipoles", "benchmarks") for p in
               (root / part).rglob("*.py")]  # fmt: skip
    wrong = [
        f"{path.name}: {line.strip()}"
        for path in [*PAGES, *sources, *(DOCS / "gallery").glob("*.*")]
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"anisole\[(?!/)", line)
    ]
    assert wrong == []


def _commands() -> list[tuple[str, list[str]]]:
    lines = []
    for page in PAGES:
        for _, block in _blocks(page, "sh"):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words[:1] == ["anisole"] and "[" not in line:
                    lines.append((page.stem, words[1:]))
    return lines


def test_commands_parse():
    from gnn.cli import _parser

    commands = _commands()
    assert {words[0] for _, words in commands} >= {"demo", "train", "evaluate", "predict"}
    for _, words in commands:
        _parser().parse_args(words)  # SystemExit if it does not


def test_options_of_data_exist():
    import argparse

    from gnn.commands import data

    commands = argparse.ArgumentParser().add_subparsers()
    data.register(commands)
    actions = commands.choices["data"]._subparsers._group_actions[0].choices
    known = {o for a in actions.values() for option in a._actions for o in option.option_strings}
    text = (DOCS / "data.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`(--[a-z-]+)`", text)) <= known


def test_configurations_parse():
    import yaml

    from gnn.training.config import parse_config

    blocks = _blocks(DOCS / "training.md", "yaml")
    assert blocks
    for _, block in blocks:
        parse_config(yaml.safe_load(block))


def _table(section: str) -> dict[str, str]:
    """Return key and default of each row of a section's table in training.md."""
    text = (DOCS / "training.md").read_text(encoding="utf-8")
    part = re.split(rf"^### `{re.escape(section)}`$", text, flags=re.MULTILINE)[1]
    part = re.split(r"^##+ ", part, flags=re.MULTILINE)[0]
    rows = re.findall(r"^\| `([\w.]+)` \| (?:`([^`]*)`)? *\|", part, re.MULTILINE)
    assert rows, f"no table of {section}"
    return dict(rows)


def test_every_key_of_the_configuration_is_documented_with_its_default():
    import yaml

    from gnn.model import AMP
    from gnn.options import GROUPS
    from gnn.training.config import Config

    sections = Config().model_dump()
    sections["model"] = AMP.argument_defaults()
    for group, kind in GROUPS.items():
        if sections["model"][group] is not None:
            del sections["model"][group]
        sections["model"] |= {f"{group}.{key}": v for key, v in asdict(kind()).items()}
    expected = {name: value for name, value in sections.items() if isinstance(value, dict)}
    expected["data.split"] = expected["data"].pop("split")
    for section, keys in expected.items():
        documented = _table(section)
        documented.pop("split") if section == "data" else None
        assert documented.keys() == keys.keys(), section
        for key, value in keys.items():
            found = yaml.safe_load(documented[key])
            # YAML takes 2e-05 for a string
            found = float(found) if isinstance(value, float) else found
            value = list(value) if isinstance(value, tuple) else value
            assert found == value, f"{section}.{key}"
    assert _table("output") == {"output": Config().output}
    assert _table("start") == {"start": "null"} and Config().start is None


@pytest.mark.parametrize("module", ["multipoles", "fmm", "gnn", "gnn.data", "gnn.published"])
def test_every_public_name_is_in_the_reference(module):
    from importlib import import_module

    text = (DOCS / "api.md").read_text(encoding="utf-8")
    listed = {
        name.rpartition(".")[2]
        for name in re.findall(r"^\.\. auto(?:function|class|module):: (\S+)", text, re.MULTILINE)
    }
    assert set(import_module(module).__all__) <= listed


def test_tolerances_are_those_of_the_validation():
    from multipoles.validation import TOLERANCES

    text = (DOCS / "multipoles.md").read_text(encoding="utf-8")
    for dtype, tolerance in TOLERANCES.items():
        mantissa, exponent = f"{tolerance:.0e}".split("e")
        assert f"{mantissa}e{int(exponent)} ({dtype.name})" in text


@pytest.fixture
def benchmarks(monkeypatch):
    """The module that writes the tables of the pages."""
    monkeypatch.syspath_prepend(str(DOCS))
    import make_benchmarks

    return make_benchmarks


def test_tables_of_the_pages_are_made_from_the_results(benchmarks, tmp_path):
    benchmarks.make(tmp_path)
    made = {path.stem for path in tmp_path.glob("*.md")}
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    included = re.findall(r"^```\{include\} _generated/(\w+)\.md$", text, re.MULTILINE)
    assert sorted(included) == sorted(made), "every table on one page, and on one only"
    pictures = set(re.findall(r"\(_generated/(\w+\.png)\)", text))
    assert pictures == {path.name for path in tmp_path.glob("*.png")}
    table = (tmp_path / "shipped_model_errors.md").read_text(encoding="utf-8")
    with (DOCS.parent / "benchmarks/results/shipped_model_errors.csv").open() as stream:
        expected = {row["molecule"]: float(row["energy_mae"]) for row in csv.DictReader(stream)}
    found = re.findall(r"^\| ([A-Za-z -]+) \| \d+ \| ([\d.]+) \|", table, re.MULTILINE)
    assert found[-1] == ("all", f"{expected['all']:.1f}") and len(found) == len(expected)


def test_a_file_of_results_that_no_table_shows_is_shown_as_it_is(benchmarks, tmp_path, monkeypatch):
    (tmp_path / "new_one.csv").write_text("what,seconds,machine,date\na,0.12345,M1,2027-01-02\n")
    monkeypatch.setattr(benchmarks, "RESULTS", tmp_path)
    monkeypatch.setattr(benchmarks.tables, "RESULTS", tmp_path)
    (tmp_path / "long_one.csv").write_text("x\n" + "1\n" * 80)
    text = "\n".join(benchmarks.others(set()))
    assert "`long_one.csv` (80 rows)" in text
    assert "| what | seconds |" in text and "| a | 0.123 |" in text
    assert "M1, 2027-01-02; `new_one.csv`." in text


def test_numbers_are_written_as_people_write_them(benchmarks):
    short = benchmarks.tables.short
    assert [short(x) for x in (1234567, 99.6, 0.0499, -2.5e-7)] == [
        "1 234 567",
        "100",
        "0.050",
        "−2.5e−7",
    ]
    assert short(0) == "0" and short("nan") == "–"
    assert benchmarks.tables.marked([("1.0", "5"), ("2.0", "4")]) == ["**1.0** / 5", "2.0 / **4**"]


def test_figures_have_their_scripts():
    pictures = [p for p in (DOCS / "figures").iterdir() if p.suffix in (".png", ".svg")]
    assert pictures
    for picture in pictures:
        script = picture.with_suffix(".py")
        assert script.is_file(), f"{picture.name} has no script"
        ast.parse(script.read_text(encoding="utf-8"))
