"""What a process does that is one of several, as far as one can tell alone."""

import pytest

from cot_latent.errors import RunError
from cot_latent.runtime import processes


def test_one_process_is_the_first_and_agrees_with_itself():
  assert processes.is_first()
  processes.check_agreement({"any": "thing"})
  for value in (True, False):
    assert processes.value_on_first(value) is value
    assert processes.is_true_on_any(value) is value


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
