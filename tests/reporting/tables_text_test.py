"""A table's texts are escaped, and its plot shows what it holds."""

import json
import math
import re

import pytest

from cot_latent.reporting.tables import plot as table_plot
from cot_latent.reporting.tables import text as table_text
from cot_latent.reporting.tables.make import make_tables
from tests.reporting import made_up
from tests.reporting.made_up import make_report, write_case
from tests.reporting.tables_cases import (
  PAPER_SPEC,
  T2,
  filled,
  read_csv,
)

# LaTeX.

_SPECIAL = re.compile(r"(?<!\\)[%#~^]|(?<!\\)_")


def check_latex(text):
  """Checks that LaTeX would take a text: nothing unescaped or unbalanced."""
  body = text.partition("\n")[2]  # after the comment
  assert not _SPECIAL.search(body)
  # The backslashes that there are belong to these.
  for command in re.findall(r"\\([A-Za-z]+|.)", body, re.DOTALL):
    assert command in {
      *("begin", "end", "centering", "caption", "label", "toprule"),
      *("midrule", "bottomrule", "textbf", "medskip", "smallskip", "par"),
      *("footnotesize", "pm", "textbackslash", "textbar", "textless"),
      *("textgreater", "textasciitilde", "textasciicircum"),
      *("\\", "&", "%", "$", "#", "_", "{", "}"),
    }
  depth = 0
  for brace in re.findall(r"\\[\\{}]|[{}]", body):
    depth += {"{": 1, "}": -1}.get(brace, 0)
    assert depth >= 0
  assert depth == 0
  open_now = []
  for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", body):
    if kind == "begin":
      open_now.append(name)
    else:
      assert open_now.pop() == name
  assert not open_now
  for line in body.splitlines():
    assert len(re.findall(r"(?<!\\)\$", line)) % 2 == 0
  for columns, lines in re.findall(
    r"\\begin\{tabular\}\{(l+r*)\}\n(.*?)\\end\{tabular\}", body, re.DOTALL
  ):
    for line in lines.splitlines():
      if not line.startswith("\\") or line.startswith("\\text"):
        assert line.endswith(r" \\")
        assert len(re.findall(r"(?<!\\)&", line)) == len(columns) - 1
        assert line[0] not in "[*"


NASTY = r"[a] 50% & #1_x {y} $z^2$ ~ \n \\ <b> | ± "
NASTY_SPEC = (
  made_up.SPEC.replace('"TRICE"', f"'{NASTY}'")
  .replace('"Greedy"', f"'{NASTY}'")
  .replace('"A tiny model."', f"'{NASTY}'")
  .replace('"Chained arithmetic"', f"'{NASTY}'")
)


@pytest.mark.parametrize("spec", [made_up.SPEC, NASTY_SPEC, PAPER_SPEC])
def test_latex_is_balanced_and_escaped(tmp_path, spec):
  make_tables(write_case(tmp_path, spec))
  text = (tmp_path / "chain.tex").read_text()
  check_latex(text)
  assert text.count(r"\toprule") == text.count(r"\bottomrule") == 2
  assert r"\textbf{92.0 $\pm$ 5.0 [85.4, 98.4]}" in text


@pytest.mark.parametrize(
  "broken",
  [
    str,
    lambda text: re.sub(r"([&%$#_{}])", r"\\\1", text),  # no backslash, ~, ^
    lambda text: re.sub(r"[\\&#%_{}~^<>|]", "", text),  # a dollar
  ],
)
def test_other_escapes_are_rejected(tmp_path, monkeypatch, broken):
  odd = NASTY_SPEC.replace("$z^2$", "$z^2")
  table = filled(write_case(tmp_path, odd))
  check_latex(table_text.latex(table))
  monkeypatch.setattr(table_text, "_latex", broken)
  with pytest.raises((AssertionError, IndexError)):
    check_latex(table_text.latex(table))


def test_markdown_is_escaped(tmp_path):
  text = make_tables(write_case(tmp_path, NASTY_SPEC))
  for line in re.findall(r"^\|.*$", text, re.MULTILINE):
    assert len(re.findall(r"(?<!\\)\|", line)) in (4, 5)
  assert "<b>" not in text.replace("\\<", "")


@pytest.mark.parametrize("start", ["=", "+", "-", "@"])
def test_a_spreadsheet_finds_no_formula(tmp_path, start):
  formula = f"{start}cmd|'/c calc'!A1"
  spec = made_up.SPEC.replace('"TRICE"', f'"{formula}"').replace(
    '"Greedy"', f'"{formula}"'
  )
  make_tables(write_case(tmp_path, spec))
  rows = read_csv(tmp_path)
  own = [row for row in rows if row["method"] == "trice"]
  assert own
  assert {row["row"] for row in own} == {f"'{formula}"}
  assert f"'{formula}" in {row["column"] for row in own}
  # Our numbers stay numbers.
  lows = [r["value"] for r in rows if r["statistic"] == "difference_t_low"]
  assert any(float(low) < 0 for low in lows)


def test_what_a_report_says_stays_text(tmp_path):
  path = write_case(tmp_path)
  for file in (tmp_path / "runs").iterdir():
    report = json.loads(file.read_text())
    report["data"]["task"] = task = "a\x1b]0;b\x07\n\n# c &lt; $d$"
    for row in report["results"]:
      row["task"] = task
    made_up.write(file, made_up.sealed(report))
  text = make_tables(path)
  assert r"questions of a\\x1b\]0;b\\x07\\n\\n# c \&lt; \$d\$, split" in text
  latex = (tmp_path / "chain.tex").read_text()
  check_latex(latex)
  back = r"\textbackslash{}"
  assert f"a{back}x1b]0;b{back}x07{back}n{back}n\\# c \\&lt; \\$d\\$" in latex
  for made in tmp_path.glob("chain.*"):
    if made.suffix != ".png":
      assert not re.search("[\x07\x1b]", made.read_text())


# The plot.


def test_what_is_plotted(tmp_path):
  table = filled(write_case(tmp_path))
  one, other = table_plot.points(table)
  assert (one.label, one.cost, one.accuracy) == ("TRICE", 1000, 92)
  assert (other.label, other.cost, other.accuracy) == ("TRICE, basic", 4000, 69)
  # The interval that has the questions' error too.
  assert other.high > 69 + 100 * T2 * 0.01 / math.sqrt(3)
  left, right = table_plot.draw([one, other], table).axes
  assert left.get_xlabel() == "Greedy, %"
  assert [t.get_text() for t in left.get_yticklabels()] == [
    "TRICE",
    "TRICE, basic",
  ]
  assert left.yaxis_inverted()  # the first row is at the top
  for line, (bars, point) in enumerate(
    zip(left.containers, (one, other), strict=True)
  ):
    (x,), (y,) = bars.lines[0].get_data()
    assert (x, y) == (point.accuracy, line)
    (((low, _), (high, _)),) = bars.lines[2][0].get_segments()
    assert (low, high) == pytest.approx((point.low, point.high))
  assert right.get_xscale() == "log"
  costs = [(*line.get_xdata(), *line.get_ydata()) for line in right.lines]
  assert costs == [(one.cost, 0), (other.cost, 1)]
  colours = {bars.lines[0].get_color() for bars in left.containers}
  assert len(colours) == 2  # the baseline has one of its own


def test_intervals_end_at_the_ends_of_the_possible_range(tmp_path):
  path = write_case(tmp_path)
  for seed, greedy in enumerate((200, 199, 200)):
    file = tmp_path / f"runs/trice-{seed}.json"
    made_up.write(file, make_report("trice", seed, greedy))
  best, _ = table_plot.points(filled(path))
  assert best.high == 100 > best.accuracy > best.low


def test_a_user_s_own_style_changes_nothing(tmp_path):
  import matplotlib

  table = filled(write_case(tmp_path))
  wanted = table_plot.render(table)
  with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red"}):
    assert table_plot.render(table) == wanted
    assert matplotlib.rcParams["font.size"] == 30
  assert wanted[".png"].startswith(b"\x89PNG")
