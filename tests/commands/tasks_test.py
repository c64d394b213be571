"""`t5x tasks`, `t5x score` and `t5x cache`, as they are typed."""

import ast
import hashlib
import json
import pathlib
import re
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from cot_latent import cli
from cot_latent.commands import cache as cache_command
from cot_latent.data import open as opening
from cot_latent.data.answers import bbh as bbh_conventions
from cot_latent.data.answers import checkers
from cot_latent.data.source import Source
from cot_latent.tasks import bbh, common, vocabularies
from tests.models.hf import tokenizer_checkpoints

pytestmark = pytest.mark.usefixtures("read_once")

NAVIGATE = "bbh_navigate"
OBJECTS = "bbh_tracking_shuffled_objects_{}_objects_v1"


@pytest.fixture
def t5x(capfd):
  """Runs the command; gives what it prints."""

  def run(*arguments):
    status = cli.main([str(argument) for argument in arguments])
    out, err = capfd.readouterr()
    assert (status, err) == (0, "")
    return out

  return run


@pytest.fixture(scope="module")
def mixture():
  """A mixture of three tasks of BIG-Bench Hard, two of them of a family."""
  parts = ["bbh_navigate_v1", OBJECTS.format("three"), OBJECTS.format("seven")]
  common.register_mixture("some_of_bbh_v1", parts)
  return "some_of_bbh"


@pytest.fixture
def refused(capfd):
  """Runs the command and gives its one line about a mistake."""

  def run(*arguments):
    status = cli.main([str(argument) for argument in arguments])
    out, err = capfd.readouterr()
    assert (status, out) == (2, "")
    assert err.startswith("t5x: error: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    return err.removeprefix("t5x: error: ").removesuffix("\n")

  return run


# t5x tasks -------------------------------------------------------------------


def read_table(out):
  """Reads the listing: task -> its other columns."""
  head, *rows = (re.split(r"  +", line) for line in out.splitlines())
  assert head == ["task", "train", "test", "base", "rationales", "answers"]
  return {name: cells for name, *cells in rows}


def test_all_tasks_are_listed(t5x):
  table = read_table(t5x("tasks"))
  every = "base, train, test"
  assert table["chain_v1"] == ["1,000", "200", "4,000", every, "an integer"]
  assert table["gsm8k_v1"] == [
    *("7,473", "1,319", "-", "train, test", "an integer"),
  ]
  assert table["bbh_navigate_v1"] == ["150", "100", "-", "-", "Yes or No"]
  assert table["bbh_snarks_v1"] == ["106", "72", "-", "-", "(A), (B), ..."]
  listed = {f"bbh_{name}_v1" for name in bbh.TASKS}
  assert listed < table.keys()
  # A mixture has as many examples as its tasks.
  whole = table["bbh_v1"]
  assert whole[-1] == "a mixture of 27 tasks"
  for column in (0, 1):
    numbers = [int(table[name][column].replace(",", "")) for name in listed]
    assert int(whole[column].replace(",", "")) == sum(numbers)


def test_tasks_of_ones_own_are_listed(t5x, tmp_path, monkeypatch):
  rows = [{"question": f"{n}?", "answer": f"{n}"} for n in range(10)]
  path = tmp_path / "mine.jsonl"
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  (tmp_path / "listed_mine.py").write_text(
    "from cot_latent.tasks import table\n"
    f"table.register('listed_mine', {str(path)!r}, kind='integer')\n"
  )
  monkeypatch.syspath_prepend(tmp_path)
  module = "--gin.TASK_MODULE='listed_mine'"
  assert "listed_mine" not in read_table(t5x("tasks"))
  cells = read_table(t5x("tasks", module))["listed_mine"]
  assert cells == ["6", "4", "-", "-", "an integer"]
  assert "listed_mine: 4 examples in split 'test'" in t5x(
    "tasks", "listed_mine", "--split=test", module
  )


def shown_examples(out):
  """Reads what is shown: head, and id -> label -> text."""
  head, *parts = out.split("\n--- ")
  examples = {}
  for part in parts:
    title, *lines = part.rstrip("\n").split("\n")
    label, texts = "", {}
    for line in lines:
      if line.startswith("  | "):
        texts[label].append(line.removeprefix("  | "))
      elif line and not line.startswith("  # "):
        label, num_tokens = re.fullmatch(
          r"(\w+) \((\d+) tokens\)", line
        ).groups()
        texts[label] = []
        texts[f"{label} tokens"] = int(num_tokens)
    examples[title.split(",")[0]] = {
      key: "\n".join(text) if isinstance(text, list) else text
      for key, text in texts.items()
    }
  return head, examples


def test_a_task_is_shown_as_the_model_sees_it(t5x):
  head, examples = shown_examples(
    t5x("tasks", "chain", "--split=test", "--examples=2")
  )
  assert head.splitlines()[:4] == [
    "chain_v1: 200 examples in split 'test' of base, train, test",
    "answers: an integer",
    f"conventions: {', '.join(bbh_conventions.conventions('integer'))}",
    "vocabulary: ByteVocabulary, 259 tokens",
  ]
  assert list(examples) == ["chain/test/00000", "chain/test/00001"]
  for shown in examples.values():
    question = shown["prompt"].removesuffix("?\n")
    numbers = re.findall(r"\d+", question)
    answer = str(sum(map(int, numbers[:-1])) % 7)
    assert shown["guide"] == f"{question}? ({answer})\n"
    assert shown["target"].endswith(f" The answer is {answer}.")
    # Bytes, and EOS at the end of a target.
    assert shown["prompt tokens"] == len(shown["prompt"])
    assert shown["target tokens"] == len(shown["target"]) + 1
  # By default three, of the questions to train on; no more than there are.
  _, examples = shown_examples(t5x("tasks", "chain"))
  assert [*examples] == [f"chain/train/0000{n}" for n in range(3)]
  _, examples = shown_examples(
    t5x("tasks", "chain", "--split=test", "--examples=999")
  )
  assert len(examples) == 200


def shown_tokens(out):
  """Reads the lines of tokens: all ids and pieces."""
  lines = [x for x in out.splitlines() if x.startswith("  # ")]
  assert max(map(len, lines), default=0) < 81
  shown = "  ".join(line[4:] for line in lines)
  return re.findall(r"(\d+) ('.*?'|\".*?\"|[^ '].*?)(?=  |$)", shown)


def test_what_ends_a_completion_is_shown(t5x):
  arguments = ("tasks", "chain", "--split=test[:3]", "--examples=9")
  plain = t5x(*arguments)
  assert "\nend tokens: 1 </s>\nstop strings: none\n" in plain
  stop = "--gin.STOP=('\\n\\n', 'Q:')"
  told = "stop strings: '\\n\\n', 'Q:'"
  assert t5x(*arguments, stop) == plain.replace("stop strings: none", told)


def test_bytes_are_shown_if_they_are_asked_for(t5x):
  arguments = ("tasks", "chain", "--split=test[:3]", "--examples=9")
  plain = t5x(*arguments)
  assert shown_tokens(plain) == []
  assert "pieces: each byte is a token, whose id is the byte + 3 " in plain
  out = t5x(*arguments, "--tokens")
  found = shown_tokens(out)
  _, examples = shown_examples(plain)
  text = "".join(example["prompt"] for example in examples.values())
  assert "".join(ast.literal_eval(piece) for _, piece in found) == text
  assert [int(number) - 3 for number, _ in found] == [*text.encode()]
  # Otherwise all is the same.
  kept = [x for x in out.splitlines() if not x.startswith("  # ")]
  assert plain.splitlines() == kept


def test_pieces_are_shown(t5x):
  folder = str(tokenizer_checkpoints.folders()["llama_3"])
  vocabulary = vocabularies.load(folder)
  out = t5x("tasks", "chain", "--examples=2", f"--gin.VOCABULARY={folder!r}")
  head, examples = shown_examples(out)
  assert "\npieces: id and 'text'; special tokens by name" in head
  end = vocabulary.eos_id
  assert f"\nend tokens: {end} <|end_of_text|>\nstop strings: none" in head
  expected = []
  for example in examples.values():
    ids = [vocabulary.bos_id, *vocabulary.encode(example["prompt"])]
    assert example["prompt tokens"] == len(ids)
    expected += ids
  found = shown_tokens(out)
  assert [int(number) for number, _ in found] == expected
  bos = "BOS <|begin_of_text|>"
  text = "".join(
    "" if piece == bos else ast.literal_eval(piece) for _, piece in found
  )
  assert [piece for _, piece in found].count(bos) == 2
  assert text == "".join(example["prompt"] for example in examples.values())


def read_bbh(data_dir, name):
  path = pathlib.Path(data_dir, "bbh", "tasks", f"{name}.json")
  return json.loads(path.read_text(encoding="utf-8"))["examples"]


def test_worked_examples_are_shown(t5x, data_dir):
  arguments = ("tasks", NAVIGATE, "--examples=1", f"--data_dir={data_dir}")
  _, plain = shown_examples(t5x(*arguments))
  few_shot = "--gin_file=gin/prompts/few_shot.gin"
  _, worked = shown_examples(t5x(*arguments, few_shot))
  ((name, bare),), ((again, shown),) = plain.items(), worked.items()
  assert again == name
  assert shown["target"] == bare["target"]
  for prompt in ("prompt", "guide"):
    assert shown[prompt].endswith("\n\n" + bare[prompt])
    assert shown[prompt].count("Question: ") == 4
    assert shown[prompt].count("So the answer is ") == 3
  # Before a hinted question the worked ones are hinted too.
  assert shown["guide"].count("Answer: The answer is ") == 4
  assert "Answer: The answer is " not in shown["prompt"]
  # Fewer, if fewer are asked for.
  one = "--gin.prompts.Prompts.num_exemplars=1"
  _, fewer = shown_examples(t5x(*arguments, few_shot, one))
  assert fewer[name]["prompt"].count("Question: ") == 2


def test_direct_prompts_are_shown(t5x, data_dir):
  head, examples = shown_examples(
    t5x(
      "tasks",
      NAVIGATE,
      "--split=test",
      "--gin_file=gin/prompts/direct.gin",
      f"--data_dir={data_dir}",
    )
  )
  assert "\nconventions: direct, trice, " in head
  rows = read_bbh(data_dir, "navigate")
  for name, shown in examples.items():
    row = rows[int(name.rpartition("/")[2])]
    assert shown["target"] == row["target"]
    assert shown["prompt"] == f"Question: {row['input']}\nAnswer:\n"


@pytest.mark.slow
def test_a_mixture_is_shown(t5x, data_dir):
  head, examples = shown_examples(
    t5x(
      "tasks",
      "bbh_algorithmic",
      "--examples=1500",
      "--split=test",
      f"--data_dir={data_dir}",
    )
  )
  assert "bbh_algorithmic_v1: 1,500 examples in split 'test'" in head
  assert {name.split("/")[1] for name in examples} == {
    name for name, task in bbh.TASKS.items() if task.is_algorithmic
  }


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["tasks", "bbh_navigat"], "no task 'bbh_navigat' is registered; did you"),
    (["tasks", "bbh_navigat"], "did you mean bbh_navigate?"),
    (["tasks", "zzz"], "no task 'zzz' is registered; `t5x tasks` lists them"),
    (["tasks", ""], "no task '' is registered"),
    (["tasks", "it's"], 'no task "it\'s" is registered'),
    (
      ["tasks", "chain", "--split=tset"],
      "task 'chain_v1' has no split 'tset': give --split, one of base, train, "
      "test",
    ),
    (["tasks", "bbh", "--split=base"], "give --split, one of train, test"),
    (
      ["tasks", "chain", "--gin_file=gin/prompts/few_shot.gin"],
      "task 'chain_v1' has no worked examples of its own",
    ),
    (
      ["tasks", "chain", "--gin.TASK_MODULE='nope'"],
      "TASK_MODULE = 'nope': cannot import it",
    ),
    (["tasks", "--gin.TASK_MODULE='nope'"], "TASK_MODULE = 'nope': cannot"),
    (["tasks", "chain", "--split=test[:x]"], "'test[:x]' cannot be read"),
    (["tasks", "chain", "--gin.STOP='x'"], "STOP = 'x': write strings in br"),
    (["tasks", "chain", "--gin.CACHE='no.npz'"], "there is no file no.npz"),
    (
      ["tasks", "chain", "--gin.VOCABULARY='no.model'"],
      "VOCABULARY: there is no file no.model",
    ),
    (
      ["tasks", NAVIGATE, "--data_dir=nowhere"],
      "cannot read nowhere/bbh/tasks/navigate.json",
    ),
  ],
)
def test_what_cannot_be_shown(refused, arguments, message):
  assert message in refused(*arguments)


# t5x score -------------------------------------------------------------------


@pytest.fixture
def write(tmp_path):
  """Writes lines to a file to be scored."""

  def write_lines(*lines, name="outputs.jsonl"):
    path = tmp_path / name
    texts = [x if isinstance(x, str) else json.dumps(x) for x in lines]
    path.write_text("".join(f"{text}\n" for text in texts))
    return path

  return write_lines


def read_summary(out):
  """Reads what `t5x score` prints: one JSON object on one line."""
  assert out.count("\n") == 1
  assert out.endswith("\n")
  return json.loads(out)


def says(*answers):
  """Completions that end with these answers, one or several."""
  texts = [f"Let me see. So the answer is {answer}." for answer in answers]
  return {"completions": texts} if len(texts) > 1 else {"completion": texts[0]}


def navigate_lines(data_dir):
  """Lines with their verdicts under `trice` and under `bbh_authors`."""
  rows = read_bbh(data_dir, "navigate")

  def of(number):
    return {"id": f"bbh/navigate/{number:05}"}

  def wrong(number):
    return {"Yes": "No", "No": "Yes"}[rows[number]["target"]]

  return [
    # By id, of the questions to train on and of the others alike.
    *(
      (of(n) | says(rows[n]["target"]), True, True)
      for n in range(0, len(rows), 50)
    ),
    (of(1) | says(wrong(1)), False, False),
    (of(2) | {"completion": "I do not know."}, None, None),
    # By the answer itself, or by both.
    ({"target": "Yes"} | says("Yes"), True, True),
    (of(3) | {"target": rows[3]["target"]} | says(wrong(3)), False, False),
    # Cut at the limit: no answer here, except for the authors.
    ({"target": "Yes", "ended": False} | says("Yes"), None, True),
    ({"target": "Yes", "ended": True} | says("Yes"), True, True),
    # Text that runs on.
    (
      {"target": "No", "completion": "So the answer is No.\nAnd so on"},
      *(None, True),
    ),
    # Votes: a majority, a tie for the first, none without an answer.
    ({"target": "No"} | says("Yes", "No", "No"), True, True),
    ({"target": "No"} | says("Yes", "No"), False, False),
    (
      {"target": "No", "completions": ["?", "?", says("No")["completion"]]},
      *(True, True),
    ),
    ({"target": "No", "completions": ["?", "?"]}, None, None),
    (
      {"target": "No", "ended": [False, False, True]}
      | says("Yes", "Yes", "No"),
      *(True, False),
    ),
  ]


@pytest.mark.parametrize(
  ("convention", "column"), [(None, 1), ("trice", 1), ("bbh_authors", 2)]
)
def test_bbh_is_scored(t5x, write, tmp_path, data_dir, convention, column):
  cases = navigate_lines(data_dir)
  path = write(*(line for line, *_ in cases))
  before = path.read_bytes()
  flags = [f"--convention={convention}"] if convention else []
  arguments = ["score", path, f"--task={NAVIGATE}", f"--data_dir={data_dir}"]
  verdicts = tmp_path / "verdicts.jsonl"
  out = t5x(*arguments, *flags, f"--verdicts={verdicts}")
  wanted = [case[column] for case in cases]
  assert read_summary(out) == {
    "correct": wanted.count(True),
    "total": len(cases),
    "accuracy": wanted.count(True) / len(cases),
    "unparseable": wanted.count(None),
  }
  assert 0 < wanted.count(None) < wanted.count(True)
  # Without verdicts it says the same, and writes nothing.
  files = sorted(tmp_path.iterdir())
  assert t5x(*arguments, *flags) == out
  assert sorted(tmp_path.iterdir()) == files == sorted([path, verdicts])
  assert path.read_bytes() == before
  lines = [json.loads(line) for line in verdicts.read_text().splitlines()]
  for number, (line, (case, *_), want) in enumerate(
    zip(lines, cases, wanted, strict=True), start=1
  ):
    assert line["correct"] is bool(want)
    assert (line["extracted"] is None) == (want is None)
    assert line["task"] == "bbh_navigate_v1"
    assert line["place"] == case.get("id", f"line {number}")
    assert (line["extracted"] == line["target"]) == line["correct"]


def test_the_two_ways_to_score_differ(data_dir):
  # Otherwise the test above could not tell them apart.
  cases = navigate_lines(data_dir)
  assert [case[1] for case in cases] != [case[2] for case in cases]


def test_gsm8k_is_scored(t5x, write, data_dir):
  path = pathlib.Path(data_dir, "gsm8k", "test.jsonl")
  row = json.loads(path.read_text().splitlines()[0])
  known = row["answer"].rpartition("#### ")[2]
  lines = [
    {"target": "18", "completion": "So it is <answer>\n18\n</answer>"},
    {"target": "1,800", "completion": "<answer>$1800.00</answer>"},
    {"target": "18", "completion": "<answer>19</answer>"},
    {"target": "18", "completion": "#### 18"},
    {"target": known, "completion": f"<answer>{known}</answer>"},
  ]
  arguments = ["score", write(*lines), "--task=gsm8k"]
  arguments.append(f"--data_dir={data_dir}")
  assert read_summary(t5x(*arguments)) == {
    **{"correct": 3, "total": 5, "accuracy": 0.6, "unparseable": 1},
  }
  assert read_summary(t5x(*arguments, "--convention=openai")) == {
    **{"correct": 1, "total": 5, "accuracy": 0.2, "unparseable": 4},
  }
  assert read_summary(t5x(*arguments, "--convention=lm_eval_flexible")) == {
    **{"correct": 3, "total": 5, "accuracy": 0.6, "unparseable": 0},
  }


def test_answers_alone_are_scored(t5x, write):
  lines = [{"target": "3", "completion": " 3\n"}, {"target": "3"} | says("3")]
  path = write(*lines)
  prompts = "--gin_file=gin/prompts/direct.gin"
  for flags, verdicts in (
    ([prompts], [True, False]),
    ([prompts, "--convention=trice"], [False, True]),
    ([], [False, True]),
  ):
    out = t5x("score", path, "--task=chain", *flags, "--verdicts", f"{path}.v")
    assert read_summary(out)["correct"] == 1
    found = pathlib.Path(f"{path}.v").read_text().splitlines()
    assert [json.loads(line)["correct"] for line in found] == verdicts


def test_a_convention_that_reads_the_question(t5x, refused, write, data_dir):
  # The text of an option counts for its letter.
  question = "Which?\nOptions:\n(A) a cat\n(B) a dog"
  line = {"target": "(B)", "completion": "a dog"}
  flags = ["--task=bbh_snarks", "--convention=lm_eval_flexible"]
  flags.append(f"--data_dir={data_dir}")
  out = t5x("score", write(line | {"question": question}), *flags)
  (rule,) = (
    way
    for way in bbh_conventions.conventions("choice").values()
    if way.name == "lm_eval_flexible"
  )
  expected = checkers.is_correct(rule, "a dog", "(B)", question)
  assert read_summary(out)["correct"] == expected
  assert read_summary(out)["total"] == 1
  # By id, it need not be given.
  by_id = {"id": "bbh/snarks/00000", "completion": "(A)"}
  assert read_summary(t5x("score", write(by_id), *flags))["total"] == 1
  assert "line 1: convention 'lm_eval_flexible' reads the question" in refused(
    "score", write(line), *flags
  )


def test_a_mixture_is_averaged(t5x, write, data_dir, mixture):
  # 3 of 4 and 0 of 1 in one family; 1 of 2 beside it.
  rights = {
    OBJECTS.format("three"): [True, True, True, False],
    OBJECTS.format("seven"): [False],
    "bbh_navigate_v1": [True, False],
  }
  lines = [
    {"task": task, "target": "Yes" if "nav" in task else "(A)"}
    | says({True: "Yes" if "nav" in task else "(A)", False: "(B)"}[right])
    for task, verdicts in rights.items()
    for right in verdicts
  ]
  # And one by its id alone, which is correct: 2 of 3.
  row = read_bbh(data_dir, "navigate")[0]
  lines.append({"id": "bbh/navigate/00000"} | says(row["target"]))
  found = read_summary(
    t5x(
      *("score", write(*lines), f"--task={mixture}", f"--data_dir={data_dir}")
    )
  )
  assert found == {
    "correct": 5,
    "total": 8,
    "accuracy": 5 / 8,
    "unparseable": 0,
    "averages": {
      "3 tasks": pytest.approx((0.75 + 0 + 2 / 3) / 3),
      "2 tasks, 3 grouped": pytest.approx((0.375 + 2 / 3) / 2),
      "examples": 5 / 8,
    },
  }


def test_verdicts_may_go_to_the_command_s_own_output(chain_cache, write):
  # As with `--verdicts >(cat)`, `--verdicts=/dev/stdout` in a pipe.
  path = write({"target": "3"} | says("3"))
  command = [sys.executable, "-m", "cot_latent.cli", "score", str(path)]
  done = subprocess.run(
    [
      *command,
      "--task=chain",
      f"--gin.CACHE='{chain_cache[0]}'",
      "--verdicts=/dev/stdout",
    ],
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.returncode == 0, done.stderr
  verdict, summary = map(json.loads, done.stdout.splitlines())
  assert verdict["correct"]
  assert summary["total"] == 1
  assert pathlib.Path("/dev/stdout").is_symlink()


def test_repeated_ids_are_reported(t5x, write):
  line = {"id": "chain/test/00000"} | says("3")
  arguments = ["score", write(line, line), "--task=chain"]
  assert read_summary(t5x(*arguments))["repeated_ids"] == 1
  arguments = ["score", write(line), "--task=chain"]
  assert "repeated_ids" not in read_summary(t5x(*arguments))


MALFORMED = [
  ("3", "expected an object, got 3"),
  ('["a"]', "expected an object, got ['a']"),
  ("{", "line 2: not valid JSON ("),
  ("", "line 2: not valid JSON ("),
  ("[" * 9999, "line 2: bad JSON"),
  ({"target": "3"}, "either 'completion' or 'completions'"),
  (
    {"target": "3", "completion": "a", "completions": ["a"]},
    "either 'completion' or 'completions'",
  ),
  ({"target": "3", "completion": 3}, "a completion must be a string, got 3"),
  ({"target": "3", "completion": None}, "must be a string, got None"),
  ({"target": "3", "completions": "a"}, "'completions' must be a list, got"),
  ({"target": "3", "completions": []}, "'completions' must be a list, got []"),
  ({"target": "3", "completions": [None]}, "a completion must be a string"),
  ({"target": 3, "completion": "a"}, "'target' must be a string, got 3"),
  ({"target": "#### 5", "completion": "a"}, "'#### 5' is not an integer, as"),
  (
    {"target": "77", "completion": "a", "id": "chain/test/00000"},
    "the target is '77', and the answer of chain/test/00000 is ",
  ),
  ({"completion": "a"}, "there is neither 'id' nor 'target'"),
  ({"id": 3, "completion": "a"}, "'id' must be a string, got 3"),
  ({"id": "x", "completion": "a"}, "task 'chain_v1' has no example 'x'"),
  (
    {"target": "3", "completion": "a", "task": "gsm8k_v1"},
    "task 'chain_v1' has no part 'gsm8k_v1'",
  ),
  ({"target": "3", "completion": "a", "ended": 1}, "'ended' must be true or"),
  (
    {"target": "3", "completions": ["a", "b"], "ended": [True]},
    "'ended' must be true or false, one for each completion",
  ),
  (
    {"target": "3", "completions": ["a"], "ended": True},
    "'ended' must be true or false, one for each completion",
  ),
  ({"target": "3", "completion": "a", "ended": [True]}, "'ended' must be"),
]


@pytest.mark.parametrize(("line", "message"), MALFORMED)
def test_a_malformed_line_is_named(refused, write, tmp_path, line, message):
  good = {"target": "3"} | says("3")
  path = write(good, line, good)
  error = refused(
    *("score", path, "--task=chain", f"--verdicts={tmp_path}/v.jsonl")
  )
  assert error.startswith(f"{path}, line 2: ")
  assert message in error
  assert len(error) < 400
  # All or nothing.
  assert list(tmp_path.iterdir()) == [path]


def test_a_mixture_must_know_the_task(refused, write, mixture):
  arguments = (f"--task={mixture}", "--data_dir=nowhere")
  line = {"target": "Yes"} | says("Yes")
  assert "'id' must be a string, got None" in refused(
    "score", write(line), *arguments
  )
  error = refused("score", write(line | {"task": "navigate"}), *arguments)
  assert "line 1: task 'some_of_bbh_v1' has no part 'navigate'" in error


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (None, "cannot read {path} (No such file or directory)"),
    (b"", "{path} is empty"),
    (b"\n\n", "{path} is empty"),
    (b'{"completion": "\xff"}', "{path}, line 1: not UTF-8"),
  ],
)
def test_a_file_that_cannot_be_scored(refused, tmp_path, content, message):
  path = tmp_path / "outputs.jsonl"
  if content is not None:
    path.write_bytes(content)
  assert message.format(path=path) in refused("score", path, "--task=chain")
  assert f"cannot read {tmp_path} (Is a directory)" in refused(
    "score", tmp_path, "--task=chain"
  )


def test_wrong_flags_of_score(refused, write, tmp_path):
  path = write({"target": "3"} | says("3"))
  assert "no task 'chian' is registered; did you mean chain?" in refused(
    "score", path, "--task=chian"
  )
  error = refused("score", path, "--task=chain", "--convention=openai")
  assert "task 'chain_v1' has no convention 'openai', only trice, " in error
  for verdicts, message in (
    (tmp_path / "no" / "v.jsonl", f"there is no folder {tmp_path}/no"),
    (path / "v.jsonl", f"there is no folder {path}"),
    (tmp_path, f"{tmp_path} is a folder: name a file"),
    (path, "is the file to be scored: name another"),
    (tmp_path / "x" / ".." / path.name, "there is no folder"),
  ):
    before = path.read_bytes()
    error = refused("score", path, "--task=chain", f"--verdicts={verdicts}")
    assert error.startswith(f"--verdicts={verdicts}")
    assert message in error
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_verdicts_are_whole_or_as_they_were(write, monkeypatch, capsys):
  path = write({"target": "3"} | says("3"))
  verdicts = path.with_name("v.jsonl")
  verdicts.write_text("of yesterday\n")

  def full(*_):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr("os.fsync", full)
  arguments = ["score", str(path), "--task=chain", f"--verdicts={verdicts}"]
  assert cli.main(arguments) == 1
  captured = capsys.readouterr()
  assert captured.out == ""
  assert captured.err.startswith(
    "t5x: error: the disk is full; free some space"
  )
  assert captured.err.count("\n") == 1
  assert verdicts.read_text() == "of yesterday\n"
  assert sorted(path.parent.iterdir()) == [path, verdicts]


# t5x cache -------------------------------------------------------------------


@pytest.fixture(scope="module")
def chain_cache(tmp_path_factory):
  """The chain task in a file, and what was printed."""
  path = tmp_path_factory.mktemp("cache") / "chain.npz"
  source = Source("chain")
  return path, cache_command.cache(source, str(path))


def test_a_task_is_stored(chain_cache, t5x, tmp_path, monkeypatch):
  path, said = chain_cache
  # The task is read again.
  monkeypatch.setattr(opening, "open_task", opening.open_task.__wrapped__)
  first, second, third = said.splitlines()
  assert first == "chain_v1: base 4,000, train 1,000, test 200"
  assert re.fullmatch("fingerprint [0-9a-f]{64}", second)
  assert third == (
    f"{path}: {path.stat().st_size:,} bytes; train on it with "
    f"--gin.CACHE=\"'{path}'\""
  )
  # As typed, it is the same file: byte for byte, wherever it is stored.
  other = tmp_path / "other.npz"
  out = t5x("cache", "--task=chain", f"--output={other}")
  assert out.splitlines()[:2] == [first, second]
  digests = [hashlib.sha256(p.read_bytes()).digest() for p in (path, other)]
  assert digests[0] == digests[1]
  assert list(tmp_path.iterdir()) == [other]
  # Other prompts are another task.
  prompts = "--gin_file=gin/prompts/direct.gin"
  out = t5x("cache", "--task=chain", f"--output={other}", prompts)
  assert out.splitlines()[1] != second
  assert hashlib.sha256(other.read_bytes()).digest() != digests[0]


def test_what_is_stored_is_what_is_shown_and_scored(chain_cache, t5x, write):
  flag = f"--gin.CACHE='{chain_cache[0]}'"
  for split in ("base", "train", "test"):
    arguments = ["tasks", "chain", f"--split={split}", "--examples=9"]
    assert t5x(*arguments, flag) == t5x(*arguments)
  line = {"id": "chain/test/00007"} | says("3")
  path = write(line, {"target": "4"} | says("4"), line | {"ended": False})
  arguments = ["score", path, "--task=chain"]
  assert t5x(*arguments, flag) == t5x(*arguments)


def test_a_mixture_is_stored(t5x, tmp_path, data_dir, mixture):
  path = tmp_path / "mixture.npz"
  folder = f"--data_dir={data_dir}"
  out = t5x("cache", f"--task={mixture}", f"--output={path}", folder)
  assert out.startswith("some_of_bbh_v1: train 450, test 300\n")
  shown = ["tasks", mixture, "--split=test", "--examples=300"]
  assert t5x(*shown, f"--gin.CACHE='{path}'") == t5x(*shown, folder)


def test_what_cannot_be_stored(refused, tmp_path):
  path = tmp_path / "a.npz"
  for output, message in (
    (tmp_path / "a.txt", "the file must end with .npz"),
    (tmp_path / "no" / "a.npz", f"there is no folder {tmp_path}/no"),
  ):
    error = refused("cache", "--task=chain", f"--output={output}")
    assert error.startswith(f"--output={output}")
    assert message in error
  (tmp_path / "folder.npz").mkdir()
  assert "is a folder: name a file" in refused(
    "cache", "--task=chain", f"--output={tmp_path}/folder.npz"
  )
  (tmp_path / "folder.npz").rmdir()
  assert "no task 'chian' is registered; did you mean chain?" in refused(
    "cache", "--task=chian", f"--output={path}"
  )
  assert "cannot read nowhere/" in refused(
    "cache", f"--task={NAVIGATE}", f"--output={path}", "--data_dir=nowhere"
  )
  assert list(tmp_path.iterdir()) == []


# NumPy leaves a file open that is no archive.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_cache_that_cannot_be_used(chain_cache, refused, tmp_path):
  path, _ = chain_cache

  def error(*flags, task="chain", file=path):
    message = refused("tasks", task, f"--gin.CACHE='{file}'", *flags)
    assert str(file) in message
    return message

  assert "holds task 'chain_v1', not 'gsm8k'" in error(task="gsm8k")
  assert "holds prompts that differ from PROMPTS" in error(
    "--gin_file=gin/prompts/zero_shot.gin"
  )
  assert "holds bytes, not the pieces" in error("--gin.VOCABULARY='v.model'")
  assert "t5x cache --task=chain --output=" in error(file=tmp_path / "no.npz")
  damaged = tmp_path / "damaged.npz"
  content = path.read_bytes()
  damaged.write_bytes(content[: len(content) // 2])
  assert "is not a file that `t5x cache` made, or is damaged" in error(
    file=damaged
  )
  # One byte of one question, in a file that is sound by itself.
  with np.load(path) as stored:
    arrays = dict(stored)
  texts = arrays["test/texts"].copy()
  at = texts.tobytes().index(b"mod 7")
  texts[at] = ord("n")
  np.savez_compressed(damaged, **(arrays | {"test/texts": texts}))
  assert zipfile.ZipFile(damaged).testzip() is None
  assert "is damaged or was changed: its fingerprint" in error(file=damaged)
