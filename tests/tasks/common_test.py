"""What every task shares: registering, building, and use by SeqIO itself."""

import functools
import json

import numpy as np
import pytest
import seqio
import tensorflow as tf

from cot_latent.data.open import open_task
from cot_latent.data.prompts import COMPACT, DIRECT, PAPER, Prompts
from cot_latent.data.source import Source
from cot_latent.errors import UserError
from cot_latent.tasks import all as all_tasks
from cot_latent.tasks import bbh, common, vocabularies
from tests.asserts import message_of
from tests.models.hf import tokenizer_checkpoints
from tests.params import by_day
from tests.tasks import pipeline

ROOM = {"prompt_length": 500, "target_length": 500}
FEW_SHOT = Prompts(exemplars="task")


@pytest.fixture
def forget():
  """Forgets the tasks that a test registers."""
  assert all_tasks  # imported before, or its tasks would be forgotten too
  before = set(seqio.TaskRegistry.names())
  yield
  for name in set(seqio.TaskRegistry.names()) - before:
    seqio.TaskRegistry.remove(name)
    common.INFO.pop(name, None)


@pytest.fixture
def register(forget):
  """Registers a throw-away task."""
  del forget

  def add(read, splits=("train",), name="toy_common", **settings):
    common.register(
      name, common.rows_source(read, splits), lambda: {}, **settings
    )
    return name

  return add


def load(name, **settings):
  return open_task(Source(name, **settings)).load("train", **ROOM)


# Files of ones own -------------------------------------------------------


def in_json(*rows):
  return json.dumps({"examples": rows}).encode()


GOOD = {"input": "a", "target": "b"}


@pytest.mark.usefixtures("forget")
@pytest.mark.parametrize(
  ("content", "said"),
  [
    (b'{"examples": [\n{"input" "a"}]}', ", line 2: not valid JSON (Expecting"),
    (b'{"examples": [', ", line 1: not valid JSON (Expecting value"),
    (b"\xef\xbb\xbf{}", ": no rows under 'examples'"),  # the mark is read over
    (b"[" * 100_000, ", line 1: bad JSON (maximum recursion depth"),
    (b'{"examples": ' + b"7" * 5000, ", line 1: bad JSON (Exceeds the limit"),
    (b"{}", ": no rows under 'examples'"),
    (b"[]", ": no rows under 'examples'"),
    (b"7", ": no rows under 'examples'"),
    (b"null", ": no rows under 'examples'"),
    (b'{"examples": {"0": 1}}', ": no rows under 'examples'"),
    (in_json(), ": no rows under 'examples'"),
    (in_json(GOOD, 7), ", examples[1]: expected an object, got 7"),
    (in_json(GOOD, [1, 2]), ", examples[1]: expected an object, got [1, 2]"),
    (in_json(GOOD, {}), ", examples[1]: field 'input' must be a string"),
    (in_json({"input": "a"}), ", examples[0]: field 'target' must be a string"),
    (in_json({"input": 7, "target": "b"}), ", examples[0]: field 'input' must"),
    (in_json({"input": "a", "target": 3}), ", examples[0]: field 'target' mus"),
    (in_json({"input": "", "target": "b"}), ", examples[0]: field 'input' mus"),
    (in_json({"input": " ", "target": "b"}), ", examples[0]: field 'input' "),
    (
      in_json({"input": "a", "target": "b\ud800"}),
      ", examples[0]: field 'target' must be a string of Unicode text",
    ),
    (
      in_json(GOOD, {"input": "a", "target": "b\nc"}),
      ", examples[1]: the answ",
    ),
    (b'{\n"examples": "\xff"}', ", line 2: not UTF-8 (invalid start byte)"),
    ("{}".encode("utf-16"), ", line 1: not UTF-8 (invalid start byte)"),
    (b"", " is empty"),
    (b"\n \n", " is empty"),
  ],
)
def test_faulty_files_are_named(content, said, tmp_path):
  path = tmp_path / "mine.json"
  path.write_bytes(content)
  bbh.register("toy_file", str(path))
  assert message_of(load, "toy_file").startswith(f"{path}{said}")


@pytest.mark.usefixtures("forget")
def test_a_missing_file_is_named(tmp_path):
  (tmp_path / "file").write_text("")
  for number, (path, reason) in enumerate(
    [
      (tmp_path / "none.json", "No such file or directory"),
      (tmp_path, "Is a directory"),
      (tmp_path / "file" / "none.json", "Not a directory"),
    ]
  ):
    bbh.register(f"toy_{number}", str(path))  # it is not read before
    said = f"cannot read {path} ({reason})"
    assert message_of(load, f"toy_{number}") == said


@pytest.mark.usefixtures("forget")
def test_too_few_rows_for_a_split(tmp_path):
  path = tmp_path / "mine.json"
  path.write_bytes(in_json(GOOD))
  bbh.register("toy_file", str(path))
  said = "split 'train' of task 'toy_file' has no examples"
  assert message_of(load, "toy_file") == said


@pytest.mark.usefixtures("forget")
def test_answers_of_another_kind_are_named(tmp_path):
  path = tmp_path / "mine.json"
  rows = [GOOD | {"target": answer} for answer in ("(A)", "(B)", "C")]
  path.write_bytes(in_json(*rows))
  bbh.register("toy_file", str(path), "choice")
  assert message_of(load, "toy_file") == (
    f"{path}, examples[2]: the answer 'C' is not (A), (B), ...; fix the row, "
    "or register the task with another kind of answer"
  )


@pytest.mark.usefixtures("forget")
def test_a_file_that_was_fixed_is_read_again(tmp_path):
  path = tmp_path / "mine.json"
  path.write_bytes(b"{")
  bbh.register("toy_file", str(path))
  message_of(load, "toy_file")
  rows = [{"input": f"q{n}", "target": f" a{n} "} for n in range(10)]
  path.write_bytes(in_json(*rows))
  task = open_task(Source("toy_file"))
  loaded = [task.load(split, **ROOM) for split in ("train", "test")]
  assert list(map(len, loaded)) == [6, 4]
  found = {
    (name, question, answer)
    for part in loaded
    for name, question, answer in zip(
      part.ids, part.questions, part.answers, strict=True
    )
  }
  assert found == {
    (f"bbh/toy_file/{n:05}", f"q{n}", f"a{n}") for n in range(10)
  }
  assert common.INFO["toy_file"].sizes() == {"train": 6, "test": 4}


# Registering -------------------------------------------------------------


def no_rows(split):
  del split
  return iter(())


@pytest.mark.parametrize(
  ("settings", "said"),
  [
    ({"name": "a b"}, "task name 'a b': use letters, digits and _ only"),
    ({"name": ""}, "task name '': use letters, digits and _ only"),
    ({"name": "a\n"}, "task name 'a\\n': use letters, digits and _ only"),
    ({"name": "chain_v1"}, "a task named 'chain_v1' is registered already"),
    ({"name": "bbh_v1"}, "a task named 'bbh_v1' is registered already"),
    ({"answer": "number"}, "unknown kind of answer 'number': give one of"),
    ({"answer": ("Yes",)}, "unknown kind of answer ('Yes',): give one of"),
    ({"form": "tags"}, "unknown form 'tags': give one of sentence, tag"),
  ],
)
def test_what_cannot_be_registered(settings, said, register):
  before = set(seqio.TaskRegistry.names()), set(common.INFO)
  assert message_of(register, no_rows, **settings).startswith(said)
  assert before == (set(seqio.TaskRegistry.names()), set(common.INFO))


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
  name = register(broken_at_the_end)
  with pytest.raises(UserError, match=r"^the last row is bad$"):
    load(name)


def test_tensorflow_would_wrap_the_error():
  """Why `rows_source` reads all rows before TensorFlow does."""
  dataset = tf.data.Dataset.from_generator(
    lambda: (row["id"] for row in broken_at_the_end("train")),
    output_signature=tf.TensorSpec([], tf.string),
  )
  with pytest.raises(tf.errors.OpError, match="the last row is bad"):
    list(dataset)


def test_no_rows_at_all(register):
  said = "split 'train' of task 'toy_common' has no examples"
  assert message_of(load, register(no_rows)) == said


def test_texts_are_not_taken_for_templates(register):
  """Nor is any byte lost: braces, newlines, zeros and all of Unicode."""
  task = open_task(Source(register(toy_rows)))
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


# Worked examples ---------------------------------------------------------


def read_exemplars(path, prompts=None):
  prompts = prompts or Prompts(exemplars=str(path))
  return common.read_exemplars(
    "chain_v1", common.INFO["chain_v1"], prompts, None
  )


def test_worked_examples_of_a_file(tmp_path):
  path = tmp_path / "a.jsonl"
  row = {"question": "q", "answer": "a", "completion": "c", "id": "more"}
  path.write_text(json.dumps(row) + "\n")
  (found,) = read_exemplars(path)
  assert (found["question"], found["answer"], found["targets"]) == (
    "q",
    "a",
    "c",
  )


def test_worked_examples_of_the_training_split():
  prompts = Prompts(exemplars="train", num_exemplars=3)
  found = read_exemplars(None, prompts)
  expected = open_task(Source("chain_v1")).load("train[:3]", **ROOM)
  assert {row["question"]: row["answer"] for row in found} == dict(
    zip(expected.questions, expected.answers, strict=True)
  )
  assert all(row["answer"] in row["targets"] for row in found)


def test_a_task_without_training_questions():
  source = common.rows_source(toy_rows, ["base"])(None)
  said = "there is no such split, only ['base']"
  assert said in message_of(common._training_rows, source, 3)


@pytest.mark.parametrize("exemplars", ["none", "bootstrapped"])
def test_there_are_no_worked_examples_yet(exemplars):
  assert len(read_exemplars(None, Prompts(exemplars=exemplars))) == 0


def test_a_task_without_worked_examples():
  assert message_of(read_exemplars, None, FEW_SHOT) == (
    "task 'chain_v1' has no worked examples of its own: use "
    "gin/prompts/bootstrapped.gin, or Prompts.exemplars = a JSONL file"
  )


@pytest.mark.parametrize(
  ("line", "said"),
  [
    (b"{", ", line 1: not valid JSON"),
    (b"[]", ", line 1: expected an object, got []"),
    (b"{}", ", line 1: field 'question' must be a string"),
    (b'{"question": "q"}', ", line 1: field 'answer' must be a string"),
    (
      b'{"question": "q", "answer": "a", "completion": 7}',
      ", line 1: field 'completion' must be a string",
    ),
    (b'{"question": "\xff"}', ", line 1: not UTF-8"),
    (b"", " is empty"),
  ],
)
def test_malformed_worked_examples(line, said, tmp_path):
  path = tmp_path / "a.jsonl"
  path.write_bytes(line)
  assert message_of(read_exemplars, path).startswith(f"{path}{said}")


def test_worked_examples_of_no_file(tmp_path):
  path = tmp_path / "none.jsonl"
  said = f"cannot read {path} (No such file or directory)"
  assert message_of(read_exemplars, path) == said
  # As the trainer meets it.
  prompts = Prompts(exemplars=str(path))
  assert message_of(load, "chain", prompts=prompts) == said


@functools.cache
def whole():
  return pipeline.sentencepiece_models()["whole"]


def with_blank_lines(folder):
  """A byte-level tokenizer for which a blank line is one token."""
  made = json.loads(tokenizer_checkpoints.MADE["neox"][0]().to_str())
  line = "\u010a"  # a line's end, as bytes are written
  model = made["model"]
  model["vocab"][line * 2] = len(model["vocab"])
  model["merges"].append([line, line])
  (folder / "tokenizer.json").write_text(json.dumps(made))
  tokenizer_checkpoints.write(
    folder, tokenizer_config={"eos_token": "<|endoftext|>"}
  )
  return str(folder)


def test_prefix_and_prompt_are_encoded_as_one_text(register, tmp_path):
  # Encoded apart, the blank line between them has other tokens.
  worked = [{"question": "w", "answer": "W", "targets": "It is W."}]
  name = register(toy_rows, exemplars=lambda data_dir: worked)
  made = common.build_variant(name, FEW_SHOT, with_blank_lines(tmp_path))
  encode = made.output_features["inputs"].vocabulary.encode
  texts = ("prior", "inputs"), ("guide", "guide_ids")
  for row in made.get_dataset(None, "train").as_numpy_iterator():
    for text, ids in texts:
      prefix, prompt = row[f"{text}_prefix"].decode(), row[text].decode()
      assert row[ids].tolist() == encode(prefix + prompt)
      assert row[ids].tolist() != [*encode(prefix), *encode(prompt)]


COLUMNS = [("prompts", "prior", ""), ("guides", "guide", "The answer is W. ")]


def test_prefixes_of_prompts_and_guides(register):
  worked = [{"question": "w", "answer": "W", "targets": "It is W."}]
  name = register(toy_rows, exemplars=lambda data_dir: worked)
  before = "Question: w\nAnswer: {}Let's think step by step.\nIt is W.\n\n"
  for model in (None, whole()):
    encode = vocabularies.load(model).encode
    task = open_task(Source(name, prompts=FEW_SHOT, vocabulary=model))
    plain = open_task(Source(name, vocabulary=model))
    rows, wanted = task.read("train"), plain.read("train")
    for place in range(len(rows.ids)):
      for column, prompt, hint in COLUMNS:
        tokens = getattr(rows, column)[place].tolist()
        row = {
          "question": rows.questions[place],
          "answer": rows.answers[place],
        }
        text = FEW_SHOT.fill(prompt, row)
        assert tokens == list(encode(before.format(hint) + text))
      assert rows.targets[place].tolist() == wanted.targets[place].tolist()


# SeqIO's own evaluator ---------------------------------------------------

EVALUATED = {
  "chain": ("chain", {}),
  "gsm8k": ("gsm8k", {}),
  "word_sorting": ("bbh_word_sorting", {}),
  "few_shot": ("bbh_navigate", {"prompts": FEW_SHOT}),
  "direct": ("bbh_causal_judgement", {"prompts": DIRECT}),
  "direct_number": ("gsm8k", {"prompts": DIRECT}),
  "pieces": ("bbh_dyck_languages", {"vocabulary": True}),
  "direct_pieces": (
    "bbh_dyck_languages",
    {"vocabulary": True, "prompts": DIRECT},
  ),
  "few_shot_pieces": (
    "bbh_web_of_lies",
    {"vocabulary": True, "prompts": FEW_SHOT},
  ),
}
each_variant = pytest.mark.parametrize(
  "case", by_day(EVALUATED, "chain", "direct_number", "few_shot_pieces")
)


def make_variant(case, data_dir):
  """Registers a task as a gin file for T5X does."""
  task, settings = EVALUATED[case]
  if "vocabulary" in settings:
    settings = settings | {"vocabulary": whole()}
  name = f"variant_{case}"
  assert common.variant(task, name, data_dir=data_dir, **settings) == name
  return name


@pytest.mark.usefixtures("forget")
@each_variant
def test_seqios_own_evaluator(case, data_dir):
  """As T5X uses it: a model maps padded token ids to padded token ids."""
  name = make_variant(case, data_dir)
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


@pytest.mark.usefixtures("forget")
@each_variant
def test_a_variant_is_what_the_trainer_reads(case, data_dir):
  task, settings = EVALUATED[case]
  if "vocabulary" in settings:
    settings = settings | {"vocabulary": whole()}
  name = make_variant(case, data_dir)
  wanted = pipeline.open_named(task, data_dir, **settings).read("test")
  dataset = seqio.TaskRegistry.get(name).get_dataset(
    None, "test", shuffle=False
  )
  rows = sorted(dataset.as_numpy_iterator(), key=lambda row: row["id"])
  assert [row["id"].decode() for row in rows] == wanted.ids
  for field, column in (("inputs", "prompts"), ("targets", "targets")):
    for row, tokens in zip(rows, getattr(wanted, column), strict=True):
      assert row[field].tolist() == tokens.tolist()


@pytest.mark.usefixtures("forget")
@each_variant
def test_postprocessor_and_metric(case, data_dir):
  task = seqio.TaskRegistry.get(make_variant(case, data_dir))
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


@pytest.mark.usefixtures("forget")
def test_a_variant_of_no_task_and_a_build_in_another_form():
  assert "did you mean chain?" in message_of(common.variant, "chian", "toy")
  built = common.build_variant("chain_v1", PAPER)
  (row,) = built.get_dataset(None, "test").take(1).as_numpy_iterator()
  assert row["inputs_pretokenized"].startswith(b"Question: ")
  # The registered one is as it was.
  registered = seqio.TaskRegistry.get("chain_v1")
  (row,) = registered.get_dataset(None, "test").take(1).as_numpy_iterator()
  assert not row["inputs_pretokenized"].startswith(b"Question: ")
  assert common.INFO["chain_v1"].prompts == COMPACT


def check_invalid_is_incorrect(metric):
  """No answer on both sides is no agreement."""
  assert metric([None, "", "7"], [None, None, "7"]) == {"accuracy": 1 / 3}


def test_no_answer_never_counts():
  (metric,) = seqio.TaskRegistry.get("chain_v1").metric_fns
  check_invalid_is_incorrect(metric)

  def by_equality(targets, predictions):
    equal = [t == p for t, p in zip(targets, predictions, strict=True)]
    return {"accuracy": sum(equal) / len(equal)}

  with pytest.raises(AssertionError):
    check_invalid_is_incorrect(by_equality)


def test_a_prediction_that_is_lost_is_noticed():
  (metric,) = seqio.TaskRegistry.get("chain_v1").metric_fns
  with pytest.raises(ValueError, match="zip"):
    metric(["7", "8"], ["7"])
