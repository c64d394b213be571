"""What every task shares: faulty files are named, and SeqIO can use it all."""

import json

import numpy as np
import pytest
import seqio
import tensorflow as tf

import cot_latent.tasks.bbh
import cot_latent.tasks.chain
import cot_latent.tasks.gsm8k  # noqa: F401
from cot_latent.data import examples
from cot_latent.errors import UserError
from cot_latent.tasks import common

ROOM = {"prompt_length": 500, "target_length": 500}
GSM8K, BBH = "gsm8k", "bbh_navigate"
FILES = {GSM8K: "gsm8k/train.jsonl", BBH: "bbh/tasks/navigate.json"}
ROW = {"question": "How many?", "answer": "Two.\n#### 2"}
GOOD = json.dumps(ROW).encode()


def write(folder, task, content: bytes):
  path = folder / FILES[task]
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(content)
  return path


def message_of(task, data_dir):
  """Loads a split as the trainer does; the message is one line."""
  with pytest.raises(UserError) as error:
    examples.open_task(task, data_dir).load("train", **ROOM)
  text = str(error.value)
  assert type(error.value) is UserError
  assert len(text.splitlines()) == 1
  assert len(text) < 400
  return text


# What follows the name of the file.
@pytest.mark.parametrize(
  ("lines", "said"),
  [
    ([b"{"], ", line 1: not valid JSON (Expecting property name"),
    ([GOOD, GOOD, GOOD[:-1]], ", line 3: not valid JSON (Expecting ',' delim"),
    ([GOOD, b"", GOOD], ", line 2: not valid JSON (Expecting value, column 1)"),
    (
      [b"\xef\xbb\xbf" + GOOD],
      ", line 1: not valid JSON (Unexpected UTF-8 BOM",
    ),
    ([GOOD, b"[" * 100_000], ", line 2: bad JSON (maximum recursion depth"),
    ([GOOD, b"7" * 5000], ", line 2: bad JSON (Exceeds the limit"),
    ([GOOD, b"[1, 2]"], ", line 2: expected an object, got [1, 2]"),
    ([b"null"], ", line 1: expected an object, got None"),
    ([b"{}"], ", line 1: field 'question' must be a string"),
    ([GOOD, b'{"question": "a"}'], ", line 2: field 'answer' must be a string"),
    ([b'{"question": 7, "answer": "#### 7"}'], ", line 1: field 'question' "),
    ([b'{"question": " ", "answer": "#### 7"}'], ", line 1: field 'question' "),
    (
      [b'{"question": "\\ud800", "answer": "a"}'],
      ", line 1: field 'question' ",
    ),
    ([b'{"question": "a", "answer": ["7"]}'], ", line 1: field 'answer' "),
    ([b'{"question": "a", "answer": "7"}'], ", line 1: no number behind '####"),
    (
      [GOOD, b'{"question": "a", "answer": "b\\n#### c"}'],
      ", line 2: no number behind '####",
    ),
    ([GOOD, b'{"question": "\xe9"}'], ", line 2: not UTF-8 (invalid"),
    (
      [(GOOD + b"\n").decode().encode("utf-16")],
      ", line 1: not UTF-8 (invalid",
    ),
    ([], " is empty"),
    ([b"", b""], " is empty"),
  ],
)
def test_faulty_lines_are_named(lines, said, tmp_path):
  path = write(tmp_path, GSM8K, b"\n".join(lines))
  assert message_of(GSM8K, str(tmp_path)).startswith(f"{path}{said}")


def in_json(*rows):
  return json.dumps({"examples": rows}).encode()


GOOD_BBH = {"input": "a", "target": "b"}


@pytest.mark.parametrize(
  ("content", "said"),
  [
    (b'{"examples": [\n{"input" "a"}]}', ", line 2: not valid JSON (Expecting"),
    (b'{"examples": [', ", line 1: not valid JSON (Expecting value"),
    (b"[" * 100_000, ", line 1: bad JSON (maximum recursion depth"),
    (b"{}", ": no rows under 'examples'"),
    (b"[]", ": no rows under 'examples'"),
    (b"7", ": no rows under 'examples'"),
    (b'{"examples": {"0": 1}}', ": no rows under 'examples'"),
    (in_json(), ": no rows under 'examples'"),
    (in_json(GOOD_BBH, 7), ", examples[1]: expected an object, got 7"),
    (in_json(GOOD_BBH, {}), ", examples[1]: field 'input' must be a string"),
    (in_json({"input": "a"}), ", examples[0]: field 'target' must be a string"),
    (
      in_json({"input": "a", "target": 3}),
      ", examples[0]: field 'target' must",
    ),
    (
      in_json({"input": "", "target": "b"}),
      ", examples[0]: field 'input' must",
    ),
    (b'{\n"examples": "\xff"}', ", line 2: not UTF-8 (invalid start byte)"),
    (b"", " is empty"),
  ],
)
def test_faulty_rows_are_named(content, said, tmp_path):
  path = write(tmp_path, BBH, content)
  assert message_of(BBH, str(tmp_path)).startswith(f"{path}{said}")


def test_too_few_rows_for_a_split(tmp_path):
  write(tmp_path, BBH, in_json(GOOD_BBH))
  said = "split 'train' of task 'bbh_navigate' has no examples"
  assert message_of(BBH, str(tmp_path)) == said


@pytest.mark.parametrize("task", [GSM8K, BBH])
def test_a_missing_file_is_named(task, tmp_path):
  path = tmp_path / FILES[task]

  def check(reason, data_dir=tmp_path):
    assert message_of(task, str(data_dir)) == (
      f"cannot read {data_dir / FILES[task]} ({reason}): "
      f"is DATA_DIR = {str(data_dir)!r} right?"
    )

  check("No such file or directory", tmp_path / "elsewhere")
  check("No such file or directory")
  path.mkdir(parents=True)
  check("Is a directory")
  (tmp_path / "file").write_text("")
  check("Not a directory", tmp_path / "file")
  assert message_of(task, None) == (
    f"this task reads {FILES[task]}: say where it is with "
    "--gin.DATA_DIR=\"'...'\""
  )


def test_each_task_keeps_its_own_folder(tmp_path):
  folders = [tmp_path / "a", tmp_path / "b"]
  for folder in folders:
    row = ROW | {"question": folder.name}
    write(folder, GSM8K, json.dumps(row).encode())
  opened = [examples.open_task(GSM8K, str(folder)) for folder in folders]
  read = [task.load("train", **ROOM).questions for task in opened]
  assert read == [["a"], ["b"]]


@pytest.fixture
def register():
  """Registers a throw-away task, and forgets it again."""
  name = "toy_common"

  def add(read, splits=("train",)):
    common.register(name, read, splits, lambda text: text or None)
    return examples.open_task(name, None)

  yield add
  seqio.TaskRegistry.remove(name)


def toy_rows(split):
  del split
  for number in range(3):
    yield {
      "id": f"toy/{number}",
      "question": f"{{answer}} {{0}} {{question}} % {number} \\1",
      "answer": f"{{question}} {number}",
      "targets": "a\u00e9\u4e2d\U0001f600 {}<>~\n\t\0",
    }


def broken_at_the_end(split):
  yield from toy_rows(split)
  raise UserError("the last row is bad")


def test_an_error_in_a_later_row_is_not_wrapped(register):
  task = register(broken_at_the_end)
  with pytest.raises(UserError, match=r"^the last row is bad$"):
    task.load("train", **ROOM)


def test_tensorflow_would_wrap_the_error():
  """Why `register` reads all rows before TensorFlow does."""
  dataset = tf.data.Dataset.from_generator(
    lambda: (row["id"] for row in broken_at_the_end("train")),
    output_signature=tf.TensorSpec([], tf.string),
  )
  with pytest.raises(tf.errors.OpError, match="the last row is bad"):
    list(dataset)


def test_no_rows_at_all(register):
  task = register(lambda split: iter(()))
  with pytest.raises(UserError, match="'train' of task 'toy_common' has no"):
    task.load("train", **ROOM)


def test_texts_are_not_taken_for_templates(register):
  """Nor is any byte lost: braces, newlines, zeros and all of Unicode."""
  task = register(toy_rows)
  loaded = task.load("train", **ROOM)
  for place, row in enumerate(toy_rows("train")):
    prompt = task.vocabulary.decode(loaded.prompts[place].tolist())
    question = row["question"]
    assert (
      prompt == f"Question: {question}\nAnswer: Let's think step by step.\n"
    )
    guide = task.vocabulary.decode(loaded.guides[place].tolist())
    assert guide == (
      f"Question: {question}\nAnswer: The answer is {row['answer']}. "
      "Let's think step by step.\n"
    )
    (targets,) = task.vocabulary.decode_rows(loaded.targets[place : place + 1])
    assert targets == row["targets"]
    num_tokens = (loaded.targets[place] != 0).sum()
    assert loaded.targets[place].tolist().index(1) == num_tokens - 1  # EOS


TASKS = ["chain", "gsm8k", "bbh_word_sorting"]


@pytest.mark.parametrize("name", TASKS)
def test_seqios_own_evaluator(name, data_dir):
  """As T5X uses it: a model maps padded token ids to padded token ids."""
  common.set_data_dir(data_dir)
  evaluator = seqio.Evaluator(
    name,
    feature_converter=seqio.EncDecFeatureConverter(pack=False),
    eval_split="test",
    num_examples=50,
  )

  def accuracy(model):
    def predict(dataset):
      return [
        (int(index), model(row["decoder_target_tokens"]))
        for index, row in dataset.as_numpy_iterator()
      ]

    metrics, _ = evaluator.evaluate(compute_metrics=True, predict_fn=predict)
    return metrics.result()[name]["accuracy"]

  def cut(tokens):
    """Lacks EOS and the byte before it: a period, or the end of the tag."""
    length = (tokens != 0).sum()
    return np.where(np.arange(len(tokens)) < length - 2, tokens, 0)

  assert accuracy(lambda tokens: tokens) == 1.0
  assert accuracy(cut) == 0.0
  assert accuracy(np.zeros_like) == 0.0


@pytest.mark.parametrize("name", TASKS)
def test_postprocessor_and_metric(name, data_dir):
  common.set_data_dir(data_dir)
  task = seqio.TaskRegistry.get(name)
  (metric,) = task.metric_fns
  rows = list(
    task.get_dataset(None, "test", shuffle=False).take(4).as_numpy_iterator()
  )
  golds = [task.postprocess_fn("", example=row, is_target=True) for row in rows]
  assert golds == [row["answer"].decode() for row in rows]
  read = [
    task.postprocess_fn(
      row["targets_pretokenized"].decode(), example=row, is_target=False
    )
    for row in rows
  ]
  assert read == golds
  assert task.postprocess_fn("", example=rows[0], is_target=False) is None
  assert metric(golds, read) == {"accuracy": 1.0}
  assert metric(golds, [*read[:3], None]) == {"accuracy": 0.75}
  assert metric(golds, [None] * 4) == {"accuracy": 0.0}


def check_invalid_is_wrong(metric):
  """No answer on both sides is no agreement."""
  assert metric([None, "", "7"], [None, None, "7"]) == {"accuracy": 1 / 3}


def test_no_answer_never_counts():
  (metric,) = seqio.TaskRegistry.get("chain").metric_fns
  check_invalid_is_wrong(metric)

  def by_equality(targets, predictions):
    equal = [t == p for t, p in zip(targets, predictions, strict=True)]
    return {"accuracy": sum(equal) / len(equal)}

  with pytest.raises(AssertionError):
    check_invalid_is_wrong(by_equality)


def test_a_prediction_that_is_lost_is_noticed():
  (metric,) = seqio.TaskRegistry.get("chain").metric_fns
  with pytest.raises(ValueError, match="zip"):
    metric(["7", "8"], ["7"])
