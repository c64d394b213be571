"""Worked examples as they are drawn, for each task of a mixture."""

import dataclasses

import numpy as np
import pytest

from cot_latent.em.drawing import Drawer
from cot_latent.errors import RunError, UserError
from cot_latent.models.api import Draws
from cot_latent.runtime import files
from cot_latent.training import bootstrap
from tests.training import toy

LENGTH, EOS = toy.LENGTH[toy.MIXTURE], 1
BATCH_SIZE = 7  # does not divide the 24 questions of a task


@pytest.fixture(scope="module")
def data():
  config = toy.make_experiment("unused", toy.MIXTURE)
  return toy.load(toy.bootstrapped(config))


def encode(text):
  return [byte + 3 for byte in text.encode()]


class Scripted:
  """A sampler that answers some questions correctly, and notes prompts."""

  def __init__(self, examples, correct=lambda name: True):
    self.answers = {
      tuple(encode(f"{question}?\n")): answer if correct(name) else "grey"
      for name, question, answer in zip(
        examples.ids, examples.questions, examples.answers, strict=True
      )
    }
    self.asked: list[tuple[int, ...]] = []

  def sample(self, params, prompts, keys, temperature):
    del params, keys
    assert temperature == 1.0
    tokens = np.zeros((len(prompts), LENGTH), np.int32)
    for row, prompt in enumerate(np.asarray(prompts)):
      own = tuple(prompt[prompt != 0].tolist())
      self.asked.append(own)
      (answer,) = (a for p, a in self.answers.items() if own[-len(p) :] == p)
      text = [*encode(f"The answer is {answer}."), EOS]
      tokens[row, : len(text)] = text
    ended = np.ones(len(prompts), bool)
    return Draws(tokens, ended, np.zeros(tokens.shape, np.float32))


def draw(data, scripted, seed=0, room=999, task=None):
  drawer = Drawer(scripted, task or data.task, data.train, BATCH_SIZE)
  return bootstrap.draw(drawer, None, seed, room)


def check_drawn(data, found, num_wanted=2):
  """Checks that each task has its own correct answers, and enough of them."""
  known = {
    name: row
    for name, *row in zip(
      data.train.ids,
      data.train.tasks,
      data.train.questions,
      data.train.answers,
      strict=True,
    )
  }
  assert [one.task for one in found] == [
    task for task in sorted(toy.PARTS) for _ in range(num_wanted)
  ]
  assert len({one.id for one in found}) == len(found)
  for one in found:
    assert [one.task, one.question, one.answer] == known[one.id]
    assert one.completion == f"The answer is {one.answer}."
    assert one.tokens == encode(one.completion)  # without EOS


def test_each_task_of_a_mixture_has_its_own(data):
  scripted = Scripted(data.train)
  found, num_sampled = draw(data, scripted)
  check_drawn(data, found)
  # A batch for each task was enough.
  assert num_sampled == len(scripted.asked) == 3 * BATCH_SIZE
  # The broken twins: one task's for all, an incorrect answer, one twice.
  twins = (
    found[:2] * 3,
    [one._replace(answer="grey") for one in found],
    [found[0], *found[:1], *found[2:]],
    found[:-1],
  )
  for twin in twins:
    with pytest.raises(AssertionError):
      check_drawn(data, twin)


def test_as_many_as_are_wanted(data):
  asked = dataclasses.replace(data.task.prompts, num_exemplars=5)
  task = dataclasses.replace(data.task, prompts=asked)
  found, _ = draw(data, Scripted(data.train), task=task)
  check_drawn(data, found, num_wanted=5)


def test_only_correct_ones_are_kept(data):
  # One question in eight, so that a batch is not enough.
  def is_correct(name):
    return int(name[-2:]) % 8 == 3

  scripted = Scripted(data.train, is_correct)
  found, num_sampled = draw(data, scripted)
  check_drawn(data, found)
  assert all(is_correct(one.id) for one in found)
  assert num_sampled > 3 * BATCH_SIZE
  # What fills the last batch of a pass up is not counted.
  assert num_sampled <= len(scripted.asked)


def test_they_depend_on_the_seed_alone(data):
  first, _ = draw(data, Scripted(data.train))
  assert draw(data, Scripted(data.train))[0] == first
  chosen = {
    tuple(one.id for one in draw(data, Scripted(data.train), seed)[0])
    for seed in range(5)
  }
  assert len(chosen) == 5
  # Each task has an order of its own.
  places = {one.id.rpartition("/")[2] for one in first}
  assert len(places) > 2


def test_too_few_correct_ones_are_an_error(data):
  task = toy.PARTS[1]

  def is_correct(name):
    return not name.startswith(task) or name.endswith("/07")

  scripted = Scripted(data.train, is_correct)
  with pytest.raises(RunError) as caught:
    draw(data, scripted)
  assert str(caught.value).startswith(
    f"the base model wrote only 1 correct rationales for {task} that fit into "
    "PROMPT_LENGTH, and 2 are wanted: set a larger PROMPT_LENGTH or fewer "
  )
  # It asked each of the task's questions several times before it gave up.
  of_task = [p for p in scripted.asked if p[0] == encode(task[4])[0]]
  assert set(of_task) == {
    tuple(encode(f"{question}?\n"))
    for question, name in zip(
      data.train.questions, data.train.tasks, strict=True
    )
    if name == task
  }
  assert len(of_task) >= 2 * toy.SIZES["train"]


def taken(found, task):
  """Tokens that a task's worked examples take before a hinted question."""
  return sum(
    len(encode(f"{one.question}? ({one.answer})\n{one.completion}\n\n"))
    for one in found
    if one.task == task
  )


def test_they_keep_within_the_room(data):
  # Each takes 31 to 34 tokens, so that two always fit.
  room, seeds = 65, range(5)
  free = [draw(data, Scripted(data.train), seed)[0] for seed in seeds]
  assert any(taken(found, t) > room for found in free for t in toy.PARTS)
  for seed in seeds:
    found, _ = draw(data, Scripted(data.train), seed, room)
    check_drawn(data, found)
    assert all(taken(found, task) <= room for task in toy.PARTS)
  with pytest.raises(RunError, match="wrote only 1 correct"):
    draw(data, Scripted(data.train), room=40)
  for room in (0, -5):
    with pytest.raises(RunError, match="wrote only 0 correct"):
      draw(data, Scripted(data.train), room=room)


@pytest.mark.parametrize(
  ("prompt_length", "num_exemplars", "left", "least"),
  [(20, 1, 7, 11), (80, 7, 67, 77)],
)
def test_examples_that_cannot_have_room_are_refused_with_the_data(
  prompt_length, num_exemplars, left, least
):
  """No base model is fitted before that, and nothing is drawn."""
  config = toy.make_experiment("unused", toy.MIXTURE)
  with pytest.raises(UserError) as caught:
    toy.load(toy.bootstrapped(config, num_exemplars, prompt_length))
  assert str(caught.value) == (
    f"PROMPT_LENGTH = {prompt_length} leaves {left} tokens for worked examples "
    f"before the longest question, and {num_exemplars} need more than {least}: "
    "set a larger PROMPT_LENGTH or a smaller Prompts.num_exemplars"
  )


def test_a_lesson_is_before_the_questions_asked(data):
  lesson = np.array(encode("1+1?\nThe answer is 2.\n\n"), np.int32)
  task = dataclasses.replace(data.task, lesson=lesson)
  scripted = Scripted(data.train)
  found, _ = draw(data, scripted, task=task)
  check_drawn(data, found)
  for prompt in scripted.asked:
    assert prompt[: len(lesson)] == tuple(lesson.tolist())
    assert prompt[len(lesson) :] in scripted.answers
  # It is no worked example itself.
  given = bootstrap.put_before(task, data.train, found, data.test)
  assert not any(
    tuple(lesson.tolist()) == tuple(row[row != 0][: len(lesson)].tolist())
    for row in given.prompts
  )


def check_put_before(data, found, given):
  """Checks prompts and guides against their text."""
  for rows, template in (
    (given.prompts, "{q}?\n"),
    (given.guides, "{q}? ({a})\n"),
  ):
    for row, task, question, answer in zip(
      rows, given.tasks, given.questions, given.answers, strict=True
    ):
      before = "".join(
        template.format(q=one.question, a=one.answer) + one.completion + "\n\n"
        for one in found
        if one.task == task
      )
      expected = encode(before + template.format(q=question, a=answer))
      assert row[row != 0].tolist() == expected
      assert not row[: len(row) - len(expected)].any()


def test_each_task_has_its_own_before_its_questions(data):
  found, _ = draw(data, Scripted(data.train))
  for others in (data.train, data.test):
    given = bootstrap.put_before(data.task, data.train, found, others)
    assert given.ids == others.ids
    check_put_before(data, found, given)
    np.testing.assert_array_equal(given.words, others.words)
  # The broken twins: another order, another task's, none.
  for twin in (found[::-1], [one._replace(task=toy.PARTS[0]) for one in found]):
    with pytest.raises(AssertionError):
      check_put_before(data, twin, given)
  with pytest.raises(AssertionError):
    check_put_before(data, found, data.test)


def test_they_are_read_as_they_were_written(data, tmp_path):
  found, _ = draw(data, Scripted(data.train))
  odd = found[0]._replace(completion="a\u2028b\nc\x85d")
  sha256 = bootstrap.write(tmp_path, [odd, *found])
  assert bootstrap.read(tmp_path, sha256, data) == [odd, *found]
  assert [path.name for path in tmp_path.iterdir()] == ["exemplars.jsonl"]
  other = bootstrap.write(tmp_path, found)
  assert other != sha256
  with pytest.raises(UserError, match="was changed, and the run"):
    bootstrap.read(tmp_path, sha256, data)
  (tmp_path / "exemplars.jsonl").unlink()
  with pytest.raises(UserError, match="cannot be read, and the run"):
    bootstrap.read(tmp_path, other, data)


ODD_ROWS = [
  *(b"[]", b"{}", b"7", b"null", b"\xff", b"", b"[" * 5000),
  *({"id": "none"}, {"id": 3}, {"task": "other"}, {"question": ["x"]}),
  *({"answer": None}, {"completion": 5}, {"more": 1}),
  *({"tokens": bad} for bad in ("abc", None, [1.5], [-1], [10**9], [[1]])),
  {"tokens": [True]},
]


@pytest.mark.parametrize("odd", ODD_ROWS, ids=lambda odd: str(odd)[:20])
def test_a_row_that_is_no_worked_example_is_named(data, tmp_path, odd):
  found, _ = draw(data, Scripted(data.train))
  bootstrap.write(tmp_path, found)
  path = tmp_path / "exemplars.jsonl"
  first, *others = path.read_bytes().splitlines(keepends=True)
  if isinstance(odd, dict):
    odd = files.to_json_line(found[0]._asdict() | odd).encode().strip()
  content = b"".join([first, odd + b"\n", *others])
  path.write_bytes(content)
  with pytest.raises(UserError, match="line 2 is not a worked example of this"):
    bootstrap.read(tmp_path, files.sha256(content), data)


def test_a_task_without_worked_examples_is_named(data, tmp_path):
  found, _ = draw(data, Scripted(data.train))
  name = found[0].task
  sha256 = bootstrap.write(tmp_path, [o for o in found if o.task != name])
  with pytest.raises(UserError, match=f"no worked examples of {name}: choose"):
    bootstrap.read(tmp_path, sha256, data)
