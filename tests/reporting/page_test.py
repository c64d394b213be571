"""The page renders whatever the report holds, and only as text."""

import copy
import html.parser
import math
import pathlib
import re
import shutil
import subprocess

import pytest

from cot_latent.reporting import page

HOSTILE = [
  "</script><script>alert(1)</script>",
  '"><img src=x onerror=alert(1)>',
  "' onload='alert(1)",
  "]]></style></title></pre></svg><script>alert(1)</script>",
  "<!-- <a href=https://example.com>",
  "{{ 7*7 }}{% raw %}",
  "\u202egnirts\u2066\x00\x1b[31m\x07\x9b\x7f\ud800\r\n",
]
CHROMIUM = pathlib.Path("/usr/bin/chromium")
FLAGS = [
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--enable-logging=stderr",
  "--dump-dom",
]


SAMPLE = {
  "step": 40,
  "source": "memory",
  "id": "train-7",
  "question": "not True is",
  "answer": "False",
  "completion": "So the answer is False.",
  "extracted": "False",
  "is_correct": True,
  "accepted_at": 37,
  "num_accepted": 5,
  "num_proposed": 8,
}


def make_metrics():
  return [
    {
      "step": step,
      "chain/accept_rate": 0.4 + step / 200,
      "memory/correct_fraction": 0.9,
      "estimator/scale": 0.5,
      "grad/norm": 1.3 + math.sin(step),
    }
    for step in range(1, 41)
  ]


def make_results():
  return [
    {
      "task": "toy",
      "split": "test",
      "decoder": decoder,
      "num_samples": num_samples,
      "step": step,
      "correct": correct,
      "total": 200,
      "accuracy": correct / 200,
      "interval": [correct / 200 - 0.05, correct / 200 + 0.05],
      "num_unparseable": 1717 + step,
      "num_cut": 2929 + step,
    }
    for step, correct in ((0, 76), (40, 123))
    for decoder, num_samples in (("greedy", 1), ("self_consistency", 40))
  ]


def make_cost():
  return {
    "seconds": {"steps": 90.0, "total": 4000.0},
    "step_seconds": {
      "sampling": 60.0,
      "checking": 5.0,
      "gradient": 20.0,
      "rest": 5.0,
    },
    "sequences_sampled": 5000,
    "sequences_scored": None,
  }


def make_report():
  return {
    "schema_version": 3,
    "status": "complete",
    "error": None,
    "identity": {
      "run_id": "toy-trice-s0-1a2b",
      "task": "toy",
      "method": "trice",
      "seed": 0,
      "started": "2026-11-24T14:00:00Z",
      "ended": None,
      "argv": ["t5x", "train"],
    },
    "code": {
      "tool_version": "0.1.0",
      "revision": "ab" * 20,
      "is_modified": True,
      "packages": {"jax": "0.10.2"},
    },
    "model": {"num_params": 98816, "params_sha256": {"0": "12" * 32}},
    "randomness": {"seed": 0, "test_vectors": {"draw": [1, 2]}},
    "continuity": {
      "resumes": [
        {
          "step": 20,
          "at": "2026-11-24T15:00:00Z",
          "code": {"revision": ["a", "b"]},
        }
      ]
    },
    "replication": [
      {
        "at": "2026-11-25T15:00:00Z",
        "verdict": "bitwise equal",
        "evidence": ["digest 1234 of both"],
      }
    ],
    "configuration": {
      "gin_files": [{"path": "gin/a.gin", "sha256": "cd" * 32}],
      "bindings": ["SEED = 3"],
      "resolved": "train.steps = 40",
      "operative": "train.steps = 40",
    },
    "data": {
      "task": "toy",
      "vocabulary": "bytes",
      "splits": {
        "train": {
          "num_examples": 1000,
          "num_left_out": 3,
          "num_truncated": 8484,
          "longest_prompt": 24,
          "fingerprint": "ef" * 32,
        }
      },
    },
    "environment": {
      "python": "3.11",
      "devices": ["cpu:0"],
      "num_cpus": 2,
    },
    "plan": {"steps": 40, "sequences_sampled": 12345},
    "metrics": make_metrics(),
    "results": make_results(),
    "samples": [
      {**SAMPLE},
      {**SAMPLE, "extracted": None, "is_correct": False},
    ],
    "cost": make_cost(),
  }


def with_strings(tree, text):
  """Replaces every string by a text, in keys only where keys are data."""
  if isinstance(tree, str):
    return text
  if isinstance(tree, list):
    return [with_strings(inner, text) for inner in tree]
  if isinstance(tree, dict):
    replaced = {key: with_strings(inner, text) for key, inner in tree.items()}
    for key in {"splits", "packages", "seconds"} & replaced.keys():
      replaced[key] |= {text: next(iter(replaced[key].values()))}
    return replaced
  return tree


class Parser(html.parser.HTMLParser):
  """Collects elements, attributes and text; checks that all is closed."""

  VOID = ("meta", "path", "circle", "rect")

  def __init__(self, text):
    super().__init__()
    self.tags, self.attributes, self.texts, self.open = [], [], [], []
    self.feed(text)
    self.close()
    assert self.open == []

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.attributes += attrs
    if tag not in self.VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.tags.append(tag)
    self.attributes += attrs

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.texts.append(data)


def assert_harmless(text):
  parser = Parser(text)
  banned = {"script", "img", "a", "link", "iframe", "object", "image", "use"}
  assert not banned & set(parser.tags)
  for name, value in parser.attributes:
    assert not name.startswith("on")
    assert name not in ("href", "src", "xlink:href", "action", "style")
    assert not re.search(r"https?:|url\(", value or "")
  style = text[text.index("<style>") : text.index("</style>")]
  assert not re.search(r"https?:|url\(|@import", style)
  assert "default-src 'none'" in text
  return parser


def test_complete_report():
  text = page.render(make_report())
  parser = assert_harmless(text)
  shown = " ".join(" ".join(parser.texts).split())
  for expected in (
    "toy-trice-s0-1a2b",
    "38.0% → 61.5%",
    "+23.5 points",
    "56.5–66.5%",
    "123 / 200",
    "✓ correct",
    "✗ incorrect",
    "66.7% · 60 s",
    "66 min 40 s",
    "12,345",
    "Self-consistency (40)",
    "not True is",
    "ef" * 32,
    "cd" * 32,
    "SEED = 3",
    "train.steps = 40",
    "accuracy on training questions at temperature 1",
    "1,717",
    "2,969",
    "8,484",
  ):
    assert expected in shown
  assert parser.tags.count("figure") == 5
  assert parser.tags.count("article") == 2
  assert "None" not in shown
  assert "stopped with an error" not in shown
  assert "Averages" not in shown


def with_chains():
  """A report of votes, of chains, and of a question that is stuck."""
  report = make_report()
  for row in report["results"]:
    if row["decoder"] == "self_consistency":
      row["objective"] = {
        "log_likelihood": {"value": -1.25, "interval": [-1.5, -1.0]},
        "pass_at": {
          "1": {"value": 0.4321, "interval": [0.4, 0.5]},
          "16": {"value": 0.8762, "interval": [0.8, 0.9]},
          "2": {"value": 0.5, "interval": [0.4, 0.6]},
        },
      }
  drift = {"edges": [-2, -1, 0, 1], "counts": [1, 5, 2], "median": -0.5}
  report["diagnostics"] = {
    "chains": {"questions": 8, "never_correct": 3, "never_moved": 4}
    | {"log_prob_drift": drift, "age": None},
    "training": [
      {"step": 40, "num_draws": 8}
      | {"log_likelihood": {"value": -0.75, "interval": [-0.9, -0.6]}}
    ],
  }
  report["stuck"] = [
    {"why": "never moved", "id": "train-9", "question": "What is it?"}
    | {"answer": "4", "completion": "Four, I think.", "num_proposed": 17}
  ]
  return report


def test_the_objective_and_the_chains_are_shown():
  text = page.render(with_chains())
  parser = assert_harmless(text)
  shown = " ".join(" ".join(parser.texts).split())
  for expected in (
    "Negative log-likelihood",
    "Held-out (40 draws)",
    "Training (8 draws)",
    "−1.250 (−1.500 to −1.000)",
    "pass@1 pass@2 pass@16",
    "43.2%",
    "87.6%",
    "Never correct: 3. Never moved: 4.",
    "Drift of log p(memory) since acceptance",
    "median −0.5",
    "Four, I think.",
  ):
    assert expected in shown
  assert parser.tags.count("figure") == 5 + 2
  assert "Stuck questions" not in page.render(make_report())


def make_mixture():
  """The report of a mixture of two tasks: the whole, then each of them."""
  report = make_report()
  whole = report["results"]
  averages = {"27 tasks": 0.3456, "23 tasks, 27 grouped": 0.2345}
  report["results"] = [
    row
    for one in whole
    for row in (
      one | {"averages": averages | {"examples": one["accuracy"]}},
      *(one | {"task": task, "accuracy": 0.77} for task in ("a", "b")),
    )
  ]
  return report


def table_rows(text):
  return [
    [
      re.sub("<[^>]*>", "", cell)
      for cell in re.findall("<t[dh].*?</t[dh]>", row)
    ]
    for row in re.findall("<tr>.*?</tr>", text)
  ]


def test_a_mixture_shows_its_averages_below_its_results():
  text = page.render(make_mixture())
  assert_harmless(text)
  rows = table_rows(text)
  head = ["Step", "Decoder", "27 tasks", "23 tasks, 27 grouped", "examples"]
  at = rows.index(head)
  assert rows.count(head) == 1
  assert rows[at + 1 : at + 5] == [
    ["0", "Greedy", "34.6%", "23.4%", "38.0%"],
    ["0", "Self-consistency (40)", "34.6%", "23.4%", "38.0%"],
    ["40", "Greedy", "34.6%", "23.4%", "61.5%"],
    ["40", "Self-consistency (40)", "34.6%", "23.4%", "61.5%"],
  ]
  # Below the whole's results, above those of its tasks.
  assert text.index("toy · test") < text.index("27 grouped")
  assert text.index("27 grouped") < text.index("a · test")
  # The headline and the curve are the whole's.
  assert "38.0% →" in text.replace("</span>", "")
  assert text.count("77.0%") == 8
  # Nothing in it depends on the content.
  for odd in (None, 3, "x", [], {}, {"27 tasks": "x"}):
    report = make_mixture()
    report["results"][0]["averages"] = odd
    assert_harmless(page.render(report))
  hostile = with_strings(make_mixture(), HOSTILE[0])
  hostile["results"][0]["averages"] = {HOSTILE[1]: 0.5}
  assert_harmless(page.render(hostile))


def test_results_tell_what_was_cut_and_what_had_no_answer():
  rows = table_rows(page.render(make_report()))
  (head,) = [row for row in rows if "95% interval" in row]
  first = rows[rows.index(head) + 1]
  assert dict(zip(head, first, strict=True)) == {
    "Step": "0",
    "Decoder": "Greedy",
    "Accuracy": "38.0%",
    "95% interval": "33.0–43.0%",
    "Correct": "76 / 200",
    "No answer": "1,717",
    "Cut": "2,929",
  }


def test_failed_report_says_why_before_anything_else():
  report = make_report() | {"status": "failed", "error": "out of <memory>"}
  text = page.render(report)
  assert_harmless(text)
  assert "out of &lt;memory&gt;" in text
  assert text.index("out of &lt;memory&gt;") < text.index("<section")


@pytest.mark.parametrize("empty", [None, {}, [], "", 0])
def test_missing_and_empty_sections(empty):
  full = make_report()
  assert_harmless(page.render({}))
  assert_harmless(page.render({name: empty for name in full}))
  for name in full:
    assert_harmless(page.render(full | {name: empty}))
    assert_harmless(page.render({k: v for k, v in full.items() if k != name}))


def test_missing_and_empty_leaves():
  def without_leaves(tree, leaf):
    if isinstance(tree, dict):
      return {key: without_leaves(inner, leaf) for key, inner in tree.items()}
    if isinstance(tree, list):
      return [without_leaves(inner, leaf) for inner in tree]
    return leaf

  assert_harmless(page.render(without_leaves(make_report(), None)))
  assert_harmless(page.render(without_leaves(make_report(), math.nan)))
  assert_harmless(page.render({"results": [{}], "samples": [{}]}))
  assert_harmless(page.render({"metrics": [{}], "data": {"splits": None}}))


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_only_text(text):
  rendered = page.render(with_strings(make_report(), text))
  parser = assert_harmless(rendered)
  rendered.encode("utf-8")
  assert not re.search(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", rendered
  )
  if "\x00" not in text:
    assert sum(text in shown for shown in parser.texts) > 20
  else:
    assert "[U+202E]gnirts[U+2066]␀␛[31m␇" in rendered


def test_rendering_does_not_change_the_report():
  report = with_strings(make_report(), HOSTILE[-1])
  before = copy.deepcopy(report)
  assert page.render(report) == page.render(report)
  assert report == before


def test_values_that_are_not_finite_are_left_out_and_counted():
  report = make_report()
  report["metrics"][3]["grad/norm"] = math.nan
  report["metrics"][5]["grad/norm"] = None
  report["metrics"][7]["grad/norm"] = math.inf
  report["metrics"][9]["estimator/scale"] = 10**400
  report["results"][0]["interval"] = [None, math.nan]
  report["results"][1]["accuracy"] = math.nan
  text = page.render(report)
  assert_harmless(text)
  assert "Not finite, so not drawn: 3." in text
  assert "Not finite, so not drawn: 1." in text
  assert not re.search(r'd="[^"]*(nan|inf)', text)


def test_completion_keeps_its_first_line_end():
  report = make_report()
  report["samples"][0]["completion"] = "\n  deep"
  assert '<pre dir="auto" tabindex="0">\n\n  deep</pre>' in page.render(report)


def test_other_questions_are_drawn_when_the_task_has_none():
  report = make_report()
  for row in report["results"]:
    row["split"] = "base"
  assert "38.0%" in page.render(report)


def everywhere(tree, text):
  """Puts a text in place of every string, and beside every key."""
  if isinstance(tree, str):
    return text
  if isinstance(tree, list):
    return [everywhere(inner, text) for inner in tree]
  if isinstance(tree, dict) and tree:
    replaced = {key: everywhere(inner, text) for key, inner in tree.items()}
    return replaced | {text: next(iter(replaced.values()))}
  return tree


def full_report():
  """A report with all that a page shows."""
  report = with_chains() | {"error": "stopped", "suspect": ["never right"]}
  report["t5x"] = {"revision": "ab" * 20, "axis_rules": [["batch", "data"]]}
  for row in report["results"]:
    row["averages"] = {"tasks": 0.5}
  return report


class Skeleton(html.parser.HTMLParser):
  """Collects the elements with the names of their attributes, and the text."""

  def __init__(self, text):
    super().__init__()
    self.found, self.texts = [], []
    self.feed(text)
    self.close()

  def handle_starttag(self, tag, attrs):
    self.found.append((tag, *(name for name, _ in attrs)))

  handle_startendtag = handle_starttag

  def handle_data(self, data):
    self.texts.append(data)


@pytest.mark.skipif(not CHROMIUM.exists(), reason="needs /usr/bin/chromium")
def test_a_browser_finds_no_element_of_the_data(tmp_path):
  """Whatever is in any text of a report, and in any key."""
  hostile = "".join(HOSTILE[:-1])
  path = tmp_path / "report.html"
  path.write_text(page.render(everywhere(full_report(), hostile)))
  done = subprocess.run(
    [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'user'}", path.as_uri()],
    capture_output=True,
    text=True,
    timeout=120,
  )
  shutil.rmtree(tmp_path / "user", ignore_errors=True)
  assert "CONSOLE" not in done.stderr
  seen = Skeleton(done.stdout)
  meant = Skeleton(page.render(everywhere(full_report(), "Plain")))
  assert seen.found == meant.found
  shown, plain = "".join(seen.texts), "".join(meant.texts)
  assert "Sample rationales" in shown
  assert shown.count(hostile) == plain.count("Plain") > 80
