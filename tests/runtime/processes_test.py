"""What a process does that is one of several, as far as one can tell alone."""

import pytest

from cot_latent.errors import RunError
from cot_latent.reporting import silent
from cot_latent.runtime import files, processes


def test_one_process_is_the_first_and_agrees_with_itself():
  assert processes.is_first()
  processes.check_agreement({"any": "thing"})
  for value in (True, False):
    assert processes.first_says(value) is value
    assert processes.any_says(value) is value


@pytest.mark.parametrize(
  "error",
  [
    ValueError("UNKNOWN: Gloo AllGather failed: Connection reset by peer"),
    RuntimeError("DEADLINE_EXCEEDED: Barrier timed out"),
  ],
)
def test_a_lost_process_is_one_line(error):
  with (
    pytest.raises(RunError, match="another one has ended") as caught,
    processes.one_line(),
  ):
    raise error
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
  "error",
  [
    ValueError("shapes do not match"),
    RuntimeError("RESOURCE_EXHAUSTED: Out of memory"),
    KeyError("UNKNOWN: "),
  ],
)
def test_other_errors_stay_what_they_are(error):
  with pytest.raises(type(error)) as caught, processes.one_line():
    raise error
  assert caught.value is error


def test_the_others_record_writes_nothing(tmp_path):
  path = tmp_path / "journal.jsonl"
  journal = files.Journal(path, None)
  for step in range(3):
    journal.add(step, "metrics", number=step)
  journal.close()
  content = path.read_bytes()
  other = silent.Record(tmp_path, 1)
  assert [row["step"] for row in other.journal.rows] == [0, 1]
  other.journal.add(2, "metrics", number=7)
  other.journal.sync()
  assert other.journal.rows[-1] == {"step": 2, "kind": "metrics", "number": 7}
  assert other.write("complete") == {}
  other.journal.close()
  other.close()
  assert path.read_bytes() == content
  assert [p.name for p in tmp_path.iterdir()] == ["journal.jsonl"]
