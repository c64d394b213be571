"""Reports that no run left, for tests of tables."""

import pathlib

import cot_latent
from cot_latent.reporting import files, record, stats, table_spec

ROOT = pathlib.Path(cot_latent.__file__).parents[1]
TOTAL = 200


def result(step, decoder, correct, averages=None):
  row = {
    "step": step,
    "task": "chain_v1",
    "split": "test",
    "decoder": decoder,
    "num_samples": 1 if decoder == "greedy" else 8,
    "correct": correct,
    "total": TOTAL,
    "accuracy": correct / TOTAL,
    "interval": list(stats.wilson_interval(correct, TOTAL)),
  }
  return row if averages is None else row | {"averages": averages}


def make_report(
  method="trice", seed=0, greedy=171, votes=190, sampled=1000, **changes
):
  """A report with `greedy` and `votes` of 200 answers right after 10 steps.

  Args:
    method: its name.
    seed: the run's.
    greedy: greedy answers that are right.
    votes: majority answers that are right.
    sampled: sequences.
    **changes: leaves to be replaced, by names with two underscores for dots.
  """
  report = {
    "schema_version": record.SCHEMA_VERSION,
    "status": "complete",
    "error": None,
    "suspect": [],
    "identity": {
      "run_id": f"chain-{method}-s{seed}",
      "method": method,
      "seed": seed,
    },
    "configuration": {
      "experiment": {
        "evaluation": {"num_samples": 8, "batch_size": 200, "period": 5},
        "task": {
          "test_split": "test",
          "max_length": 40,
          "prompt_length": 32,
        },
      }
    },
    "data": {
      "task": "chain_v1",
      "splits": {
        "train": {"num_examples": 1000, "fingerprint": "ab"},
        "test": {
          "num_examples": TOTAL,
          "fingerprint": "cd",
          "ids_sha256": "ef",
        },
      },
    },
    "environment": {},
    "plan": {"steps": 10},
    "metrics": [{"step": step, "grad/norm": 0.5} for step in range(1, 11)],
    "samples": [{"step": 0, "completion": "The answer is 4."}],
    "results": [
      result(0, "greedy", 30 + seed),
      result(0, "self_consistency", 120),
      result(5, "greedy", 1),
      result(10, "greedy", greedy),
      result(10, "self_consistency", votes),
    ],
    "cost": {
      "sequences_sampled": sampled,
      "sequences_scored": 2 * sampled,
      "seconds": {"total": 70.5 + seed},
    },
  }
  for name, value in changes.items():
    *path, last = name.split("__")
    place = report
    for key in path:
      place = place[key]
    place[last] = value
  return sealed(report)


def sealed(report):
  """The report with hashes of what it is now."""
  parts = {k: v for k, v in report.items() if k not in record._SEALS}
  return parts | record._seals(parts)


def write(path, report):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(files.to_json(report))


SPEC = """
title = "Chained arithmetic"
caption = "A tiny model."
reports = "runs"
baseline = "trice_basic"

[[rows]]
method = "trice"
label = "TRICE"
[[rows]]
method = "trice_basic"
label = "TRICE, basic"

[[columns]]
label = "Greedy"
decoder = "greedy"
[[columns]]
label = "Votes"
decoder = "self_consistency"
[[columns]]
label = "Sampled"
cost = "sequences_sampled"
"""
# Right answers of 200, by seed. Differences 4, 6, 8: mean 6, s.d. 2.
GREEDY = {"trice": (180, 184, 188), "trice_basic": (176, 178, 180)}
VOTES = {"trice": (190, 191, 192), "trice_basic": (192, 190, 191)}


def write_case(folder, spec=SPEC, seeds=(0, 1, 2), methods=tuple(GREEDY)):
  """Writes a table's description and its reports; returns the former."""
  path = folder / "chain.toml"
  path.write_text(spec)
  for method in methods:
    for seed in seeds:
      report = make_report(
        method,
        seed,
        GREEDY[method][seed],
        VOTES[method][seed],
        1000 if method == "trice" else 4000,
      )
      write(folder / "runs" / f"{method}-{seed}.json", record.compact(report))
  return path


def read_spec(folder, text=SPEC):
  path = folder / "chain.toml"
  path.write_text(text)
  return table_spec.read(path)
