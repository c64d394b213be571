"""What stands below a table: what its numbers and intervals are."""

from collections.abc import Iterator

from cot_latent.reporting.tables.cells import Table
from cot_latent.reporting.tables.reports import Run

NOT_RUN = "not run"


def notes(table: Table) -> list[str]:
  """Says what the numbers are, a paragraph each."""
  spec = table.spec
  notes: list[str] = []
  if table.runs:
    notes += _notes_on_runs(table)
  if spec.paper:
    notes.append(
      "Numbers under a source in brackets are quoted from it, and were not "
      "measured here."
    )
  if len(table.runs) < len(spec.rows):
    notes.append(f"“{NOT_RUN}”: there is no report.")
  return notes


def _notes_on_runs(table: Table) -> Iterator[str]:
  spec = table.spec
  runs = table.runs[spec.baseline]
  seeds = ", ".join(str(run.seed) for run in runs)
  kinds = {cell.estimate.kind for cell in table.cells.values()}
  text = (
    f"Accuracy in percent on {runs[0].num_questions:,} questions of "
    f"{runs[0].task}, split {runs[0].split}"
  )
  if len(runs) > 1:
    text += (
      f": the mean over {len(runs)} seeds ({seeds}) ± half of Student’s 95% "
      "interval over seeds, which says what other seeds would give on these "
      "questions; in brackets the 95% interval by bootstrap over seeds and "
      "questions, which ends at 0 and 100 at most."
    )
  else:
    intervals = {
      "wilson": "Wilson’s 95% interval over questions",
      "bootstrap": "the 95% interval by bootstrap over questions",
    }
    named = [text for kind, text in intervals.items() if kind in kinds]
    text += f": one seed ({seeds})"
    text += f", with {' or '.join(named)}." if named else "."
  yield text
  yield from _notes_on_votes(table, runs[0])
  if any(column.decoder == "self_consistency" for column in spec.columns):
    yield (
      "Self-consistency: the commonest answer of "
      f"{runs[0].settings['num_samples']} samples."
    )
  if any(cell.is_best for cell in table.cells.values()):
    yield (
      "Bold: better than every other row that was run, as both 95% intervals "
      "of each difference, paired by seed and question, exclude 0."
    )
  if any(column.cost is not None for column in spec.columns):
    yield "Costs are of a whole run, evaluations included; means over seeds."
  own = [row.label for row in spec.rows if row.own_prompts]
  if own:
    yield f"With prompts of their own: {', '.join(own)}."


def _notes_on_votes(table: Table, run: Run) -> Iterator[str]:
  """Says what is computed from the samples of self-consistency."""
  decoders = {column.decoder for column in table.spec.columns}
  number = run.settings["num_samples"]
  if "pass@k" in decoders:
    yield (
      "Pass@k: the probability that one of k samples is correct, estimated "
      f"without bias from {number}."
    )
  if "log_likelihood" in decoders:
    yield (
      "Log-likelihood: log p(answer | question) in nats, its series cut at "
      f"order {number}, estimated without bias from as many samples."
    )
  if len(table.runs[table.spec.baseline]) == 1 and (
    decoders & {"pass@k", "log_likelihood"}
  ):
    yield "Their intervals are 95%, by bootstrap over questions."


def differences_title(table: Table) -> str:
  """Says what the table of differences shows."""
  labels = {row.method: row.label for row in table.spec.rows}
  units = {c.unit for c in table.spec.columns if c.decoder is not None}
  names = {"share": "points", "nats": "nats"}
  text = f"Differences to {labels[table.spec.baseline]}, in " + " and ".join(
    name for unit, name in names.items() if unit in units
  )
  if len(table.runs[table.spec.baseline]) > 1:
    return (
      f"{text}: the mean over pairs of equal seed ± half of Student’s 95% "
      "interval over seeds; in brackets the 95% interval by bootstrap over "
      "seeds and questions, paired by both."
    )
  return (
    f"{text}, with the 95% interval by bootstrap over questions, paired by "
    "question."
  )
