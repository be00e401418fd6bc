"""Settings of the documentation; built by `make docs`."""

import re
import sys
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

project = "anisole"
author = "The anisole developers"
copyright = author
version = release = installed("anisole")

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "sphinx_gallery.gen_gallery",
    "sphinx-mathjax-offline",
]
exclude_patterns = ["_build", "_generated", "figures/*.py", "gallery"]

sys.path.insert(0, str(Path(__file__).parent / "gallery"))  # the examples share helpers
sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "auto_gallery",
    "within_subsection_order": "ExampleTitleSortKey",
    "filename_pattern": "/plot_",
    "ignore_pattern": r"(amoeba|induced)\.py$",
    "download_all_examples": False,
    "show_memory": False,
    "write_computation_times": False,
    "remove_config_comments": True,
    "abort_on_example_error": True,
}

myst_enable_extensions = ["amsmath", "attrs_block", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

default_role = "py:obj"
add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autosummary_generate = False
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

html_theme = "furo"
html_title = f"anisole {release}"
html_static_path = ["_static"]
html_css_files = ["anisole.css"]
html_show_sphinx = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b6e8a", "color-brand-content": "#0b6e8a"},
    "dark_css_variables": {"color-brand-primary": "#5cc1dd", "color-brand-content": "#5cc1dd"},
}

# |alpha| in a docstring is the order of a multi-index, not a substitution of reStructuredText
_BARS = re.compile(r"(?<!\\)\|(?=\S)([^|\n]{1,12}?)(?<=\S)\|")


def _keep_bars(
    _app: Any, _what: str, _name: str, _object: Any, _options: Any, lines: list[str]
) -> None:
    lines[:] = [_BARS.sub(r"\\|\1\\|", line) for line in lines]


def _make_benchmarks(app: Any) -> None:
    sys.path.insert(0, str(app.confdir))
    from make_benchmarks import make

    make()


def setup(app: Any) -> None:
    """Register what this project needs beyond the extensions."""
    app.connect("builder-inited", _make_benchmarks)
    app.connect("autodoc-process-docstring", _keep_bars, priority=100)
