"""The site's generated reference: each name has a meaning, and is there."""

import pathlib
import re

import pytest

import cot_latent as cl

pytest.importorskip("griffe")

from docs._generate import (
  code_text,
  command_pages,
  gin_pages,
  report_pages,
)

ROOT = pathlib.Path(__file__).parents[1]


def read_rows(text, section=None):
  """Reads the tables of a page, or of a section: their first two cells."""
  if section is not None:
    text = re.search(rf"^## {section}$(.*?)(^## |\Z)", text, re.M | re.S)[1]
  rows = re.findall(r"^\| `([^`]+)` \| (.*?) ?(?<!\\)\|", text, re.M)
  assert rows
  return rows


@pytest.fixture(scope="module")
def gin_page():
  return gin_pages.page(ROOT)


@pytest.mark.parametrize(
  ("section", "number"),
  [
    ("Macros", 50),
    ("Macros inside T5X", 20),
    ("Configurable fields", 100),
  ],
)
def test_each_gin_name_has_a_meaning(gin_page, section, number):
  rows = read_rows(gin_page, section)
  assert len(rows) > number
  assert [name for name, meaning in rows if not meaning] == []


def test_a_macro_means_the_same_in_all_runs(gin_page):
  meaning = dict(read_rows(gin_page, "Macros"))
  assert meaning["LEARNING_RATE"] == "highest learning rate of the method"
  assert meaning["DATA_DIR"].startswith("folder with bbh/ and gsm8k/;")


def test_a_meaning_may_begin_on_the_next_line():
  header = "Provides: ONE, TWO_PARTS\n  (words\n  (and more); the end), THREE."
  file = gin_pages.GinFile("gin/runs/a.gin", header, [], {}, set())
  [row] = gin_pages._macros([file], [])[2:]
  assert row == "| `TWO_PARTS` | words (and more); the end | required |"


def test_fields_are_described_where_a_class_says_so():
  # By the class, by its `__init__`, and by its base class.
  for path, name, meaning in (
    ("cot_latent.em.method.Method", "num_draws", "Number of draws K"),
    ("cot_latent.t5x.report.Report", "model_dir", "The run's folder."),
    ("cot_latent.data.chat.Chat", "num_exemplars", "Maximum number of"),
  ):
    found = code_text.attributes(code_text.find(ROOT, path))
    assert found[name].startswith(meaning)


def test_each_place_of_a_report_has_a_meaning():
  rows = read_rows(report_pages.schema_page(ROOT))
  assert len(rows) > 200
  assert [name for name, meaning in rows if not meaning] == []
  meaning = dict(rows)
  # By its own description, and by a docstring of the metrics.
  assert meaning["results[].accuracy"] == "correct divided by total"
  assert meaning["time/sampling"] == "Time to draw."


def test_a_default_is_told_once():
  page = command_pages.page(ROOT)
  assert re.search(r"^\| `--seeds.*` \| number of seeds \| `5` \|$", page, re.M)
  assert "<code>--dry_run true&#124;false</code>" in page
  # This one is in words.
  assert "| the new run's folder (default: in runs/) | – |" in page


def check_names_the_public_api(text):
  """Checks that each public name is on the page, under where it is defined."""
  shown = set(re.findall(r"^::: (\S+)$", text, re.M))
  defined = {path.replace(":", ".") for path in cl._PUBLIC.values()}
  assert defined <= shown, defined - shown


def test_the_python_reference_has_each_public_name():
  text = (ROOT / "docs/reference/python.md").read_text()
  check_names_the_public_api(text)
  with pytest.raises(AssertionError, match="Drawer"):
    check_names_the_public_api(text.replace("drawing.Drawer", "drawing"))
