"""The example whose answers have many forms."""

import json
import random

from examples import many_forms


def test_a_number_is_read_in_every_form():
  rng = random.Random(0)
  seen = set()
  for number in [*range(7)] * 40:
    answer = many_forms.form(number, rng)
    seen.add(answer)
    assert many_forms.number_of(answer) == number
    told = f"1+2=3, 3+4=0. The answer is {answer}."
    assert many_forms.number_of(told) == number
  assert len(seen) > 200
  for other in ["", "says Kiv", "The answer is ", "The answer is 12, says Kiv"]:
    assert many_forms.number_of(other) is None


def test_a_known_answer_is_hardly_ever_drawn():
  answers = [row["answer"] for row in many_forms.rows("train")]
  assert len({*answers}) > 0.9 * len(answers)


def test_correct_numbers_are_counted(tmp_path):
  path = tmp_path / "outputs.jsonl"
  lines = [
    ("The answer is V, says Kiv.", "five, says Bob"),
    ("The answer is 4, says Kiv.", "five, says Kiv"),
  ]
  path.write_text(
    "".join(
      json.dumps({"completion": one, "target": other}) + "\n"
      for one, other in lines
    )
  )
  assert many_forms.accuracy(path) == 0.5
