"""docs/claims.md: its sentences and the tests that it names exist."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / "docs/claims.md"


def read_claims(text):
  """Reads the rows: page, sentence, and the names of what holds it."""
  claims = []
  for line in text.splitlines():
    cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
    if not (cells and cells[0].startswith("[")):
      continue
    page, sentence, holders = cells
    [link] = re.findall(r"\]\((\S+?)\)", page)
    names, path = [], None
    for name in re.findall(r"`([^`]+)`", holders):
      path, _, test = name.rpartition("::") if "::" in name else (name, "", "")
      path = path or names[-1][0]
      names.append((path, test))
    claims.append((link, sentence.replace(r"\|", "|"), names))
  return claims


def check(text):
  """Checks all rows of a page of claims."""
  claims = read_claims(text)
  assert len(claims) > 20
  for link, sentence, names in claims:
    page = (PAGE.parent / link).read_text()
    assert sentence in " ".join(page.split()), sentence
    assert names, sentence
    for path, test in names:
      code = (ROOT / path).read_text()
      assert not test or re.search(rf"^def {test}\(", code, re.M), test


def test_every_claim_has_its_sentence_and_its_test():
  check(PAGE.read_text())


@pytest.mark.parametrize(
  ("old", "new"),
  [
    ("It ascends log p(y", "It ascends p(y"),
    ("test_posterior_is_invariant", "test_posterior_is_fine"),
    ("`benchmarks/variance_real.py`", ""),
  ],
)
def test_a_claim_that_nothing_holds_is_noticed(old, new):
  text = PAGE.read_text()
  assert old in text
  with pytest.raises(AssertionError):
    check(text.replace(old, new))
