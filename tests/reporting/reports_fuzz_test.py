"""Nothing that people hand to each other ends a command in a traceback."""

import contextlib
import random

import pytest

from cot_latent.errors import UserError
from cot_latent.reporting import reading
from tests.reporting import reports_fuzz


def test_what_is_mutated_is_read_as_it_is(tmp_path):
  reports_fuzz.write_run(tmp_path / "run")
  reports_fuzz.read_all(random.Random(0), tmp_path / "run", tmp_path / "run")
  opened = reading.open_report(tmp_path / "run/report.json")
  assert opened.report["status"] == "complete"


@pytest.mark.parametrize(
  "number", [150, pytest.param(12_000, marks=pytest.mark.slow)]
)
def test_mutations_end_in_a_line(number):
  reports_fuzz.fuzz(number)


def test_a_traceback_is_found(monkeypatch):
  read = reading.record.read_file

  def forgetful(path):
    """Checks no form."""
    with contextlib.suppress(UserError):
      return read(path)
    return reports_fuzz.json.loads(path.read_text())

  monkeypatch.setattr(reading.record, "read_file", forgetful)
  with pytest.raises(AssertionError, match=r"mutation \d+ \(fuzz_"):
    reports_fuzz.fuzz(100)
