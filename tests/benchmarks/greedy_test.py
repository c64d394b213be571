"""Answers of transformers are judged as a run's, and differences explained."""

import dataclasses

import numpy as np
import pytest
import torch
import transformers

from benchmarks import few_shot, greedy
from cot_latent.data.prompts import Prompts
from cot_latent.data.task import Task
from cot_latent.models.vocabularies import Vocabulary, byte_vocabulary

torch.set_num_threads(1)

# One piece is the beginning of another.
PIECES = ["", "", "", "a", "ab", "b", "c", "d", "\n", "!"]
END, STOP = 1, PIECES.index("!")


def encode(text):
  tokens = []
  while text:
    piece = max(filter(text.startswith, filter(None, PIECES)), key=len)
    tokens.append(PIECES.index(piece))
    text = text[len(piece) :]
  return tokens


def decode(tokens):
  return "".join(PIECES[token] for token in tokens)


PROMPTS = Prompts(prior="{question}", guide="{question}{answer}")


@pytest.fixture(scope="module")
def task():
  vocabulary = Vocabulary("pieces", len(PIECES), END, decode, encode)
  made = Task.from_rows(
    ["a", "b"],
    ["d", "c"],
    check=lambda completion, answer: completion.endswith(answer),
    prompts=PROMPTS,
    vocabulary=vocabulary,
  )
  return made.ending_at(("!",))


def answered(task, tokens, place=0, second=None, gaps=None):
  """An answer of transformers, from what it drew."""
  examples = task.load("train")
  drawn = np.array(tokens, np.int32)
  zeros = np.zeros_like(drawn)
  return greedy.judged(
    task,
    examples,
    place,
    drawn,
    zeros if second is None else np.array(second, np.int32),
    zeros * 1.0 if gaps is None else np.array(gaps),
  )


def test_an_answer_that_was_cut_is_no_answer(task):
  said = encode("abd")
  for tokens, end, is_correct in [
    ([*said, END, 3], "eos", True),
    ([*said, STOP, 3], "stop", True),
    (said, "cut", False),
    ([*encode("abc"), END], "eos", False),
  ]:
    found = answered(task, tokens)
    assert found.output.is_correct == is_correct
    assert found.output.ended == [end != "cut"]
    assert (found.output.extracted is None) == (end == "cut")
    assert greedy.end_of(task, found.tokens) == end
    assert len(found.tokens) == len(tokens) - (3 in tokens[2:])


def test_a_tie_is_found_where_the_tokens_part(task):
  """The texts ac and abc part at c, the tokens one before."""
  a, ab, b, c, d = (PIECES.index(x) for x in ("a", "ab", "b", "c", "d"))
  theirs = answered(task, [a, c, END], second=[ab, d, d], gaps=[1e-6, 3, 3])
  found = greedy.difference_of_text(task, "abc", theirs)
  assert found == (0, 1e-6)
  assert greedy.difference_of_tokens(np.array([ab, c, END]), theirs) == found
  # As likely is that it was b after a.
  theirs = answered(task, [a, c, END], second=[ab, b, d], gaps=[1e-6, 2e-6, 3])
  assert greedy.difference_of_text(task, "abc", theirs) == (1, 2e-6)
  assert greedy.difference_of_tokens(np.array([a, b, c]), theirs) == (1, 2e-6)


def test_a_difference_that_is_no_tie_has_no_gap(task):
  a, b, c, d = (PIECES.index(x) for x in ("a", "b", "c", "d"))
  theirs = answered(task, [a, c, END], second=[b, d, d], gaps=[1e-6, 1e-6, 3])
  assert greedy.difference_of_text(task, "abc", theirs) == (1, None)
  tokens = np.array([a, b, c])
  assert greedy.difference_of_tokens(tokens, theirs) == (1, None)
  assert greedy.difference_of_tokens(theirs.tokens, theirs) is None


def test_an_end_may_be_the_tie(task):
  a, c = PIECES.index("a"), PIECES.index("c")
  theirs = answered(task, [a, c, END], second=[c, END, a], gaps=[3, 1e-6, 3])
  assert greedy.difference_of_text(task, "a", theirs) == (1, 1e-6)
  theirs = answered(task, [a, END], second=[c, c], gaps=[3, 1e-6])
  assert greedy.difference_of_text(task, "acd", theirs) == (1, 1e-6)


def test_rows_tell_both_sides_and_ties_are_no_faults(task):
  a, ab, c, d = (PIECES.index(x) for x in ("a", "ab", "c", "d"))
  peers = [
    answered(task, [a, d, END], second=[ab, c, c], gaps=[1e-6, 3, 3]),
    answered(task, [c, c, c], place=1),
  ]
  ours = [[ab, d, STOP], [c, c, END]]
  names = [peer.output.id for peer in peers]
  rows = [
    {"id": name, "completion": text, "ended": True, "is_correct": True}
    for name, text in zip(names, ("abd", "cc"), strict=True)
  ]
  found = few_shot.compare(task, rows, np.array(ours, np.int32), peers)
  assert found["rows"] == [
    {
      "id": names[0],
      "ours": {"end": "stop", "tokens": 3, "ended": True, "correct": True},
      "theirs": {"end": "eos", "tokens": 3, "ended": True, "correct": True},
    },
    {
      "id": names[1],
      "ours": {"end": "eos", "tokens": 3, "ended": True, "correct": True},
      "theirs": {"end": "cut", "tokens": 3, "ended": False, "correct": False},
    },
  ]
  assert found["theirs"] == {
    "ends": {"eos": 1, "stop": 0, "cut": 1},
    "median_tokens": 3,
    "correct": 1,
  }
  assert found["differing"] == [
    {"id": names[0], "step": 0, "gap": 1e-6},
    {"id": names[1], "step": 2, "gap": None},
  ]
  assert few_shot.faults(found) == [
    f"rows: {names[1]} differs, and not by a tie"
  ]
  found["differing"] = [found["differing"][0]] * 3
  assert few_shot.faults(found) == ["rows: 3 questions differ, more than 2"]
  found["differing"] = [{"id": "x", "step": 0, "gap": 2e-3}]
  assert few_shot.faults(found) == ["rows: x differs, and not by a tie"]
  with pytest.raises(SystemExit, match="on the other side"):
    few_shot.compare(task, rows[::-1], np.array(ours), peers)


@pytest.mark.parametrize("beginning", ["Question: is it so that ", ""])
def test_a_shared_beginning_changes_no_answer(beginning):
  """Nor does an id that is swapped with padding."""
  padding = 7
  vocabulary = dataclasses.replace(byte_vocabulary(), padding_id=padding)
  task = Task.from_rows(
    ["one?", "is two?", "is six?", "xyz?"],
    ["a"] * 4,
    prompts=Prompts(beginning + "{question}", "{question}{answer}"),
    vocabulary=vocabulary,
  ).ending_at(("e", "\x04"))  # the latter is the token of padding
  config = transformers.LlamaConfig(
    vocab_size=vocabulary.size,
    hidden_size=16,
    intermediate_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    initializer_range=0.5,
    bos_token_id=None,
    eos_token_id=1,
    pad_token_id=None,
  )
  torch.manual_seed(0)
  model = transformers.LlamaForCausalLM(config).eval()
  examples = task.load("train")
  found = greedy.answer(model, task, examples, 12)

  def swapped(ids):
    return [{0: padding, padding: 0}.get(token, token) for token in ids]

  assert len({len(answer.tokens) for answer in found}) > 1
  for row, answer in zip(examples.prompts, found, strict=True):
    ids = swapped(row[row != 0].tolist())
    tokens = []
    while len(tokens) < 12:
      with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, -1]
      top = torch.topk(logits, 2)
      ids.append(int(top.indices[0]))
      tokens += swapped(ids[-1:])
      step = len(tokens) - 1
      assert answer.tokens[step] == tokens[step]
      assert swapped(top.indices[1:].tolist()) == [answer.second[step]]
      gap = float(top.values[0] - top.values[1])
      assert answer.gaps[step] == pytest.approx(gap, abs=1e-4)
      if task.ending.lengths(np.array([tokens]))[1][0]:
        break
    assert len(answer.tokens) == len(tokens)
