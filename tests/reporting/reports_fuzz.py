"""Mutates what people hand to each other, and has every command read it.

Reports, journals, stored completions, descriptions of tables, caches and worked
examples, and what a run reads again in its own folder. A command may take what
it is given or refuse it in one line; it never ends in a traceback, and never
prints what a terminal would obey.

    python -m tests.reporting.reports_fuzz NUMBER [FIRST]
"""

import contextlib
import io
import json
import pathlib
import random
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np

from cot_latent import cli
from cot_latent.data import open as opening
from cot_latent.data import seqio_task
from cot_latent.data.prompts import Prompts
from cot_latent.data.source import Source
from cot_latent.errors import UserError
from cot_latent.reporting import page, record, seals
from cot_latent.reporting.tables import cells, reports, spec, text
from cot_latent.runtime import files
from cot_latent.tasks import common
from tests.reporting import made_up
from tests.reporting.mutations import (
  ODD,
  ODD_ARRAYS,
  mutated_bytes,
  mutated_tree,
  to_json,
)
from tests.training import folders_fuzz

QUICKSTART = made_up.ROOT / "reports/quickstart"
OUTPUTS = "outputs/000002-test-greedy.jsonl"
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]")


def write_run(folder: pathlib.Path) -> None:
  """Writes a small finished run: report, journal and completions."""
  lines = [
    {
      "id": f"chain/test/{i:05}",
      "task": "chain_v1",
      "question": "1+1 mod 7",
      "target": "2",
      "completion": f"1+1={i}. The answer is {i}.",
      "ended": True,
      "extracted": str(i),
      "is_correct": i == 2,
    }
    for i in range(4)
  ]
  outputs = "".join(map(files.to_json_line, lines)).encode()
  result = made_up.result(2, "greedy", 1)
  result |= {"total": 4, "accuracy": 0.25, "verdicts": "0010"}
  visits = {
    **{"question": [0, 1], "num_draws": 4, "num_correct": [1, 0]},
    **{"is_correct": [True, False], "log_prob": [-1.5, None]},
  }
  stuck = {
    **{name: "a" for name in ("id", "question", "answer", "completion")},
    **{"why": "never correct", "num_proposed": 8},
  }
  sample = {
    "source": "greedy",
    **{name: "a" for name in ("id", "question", "answer", "completion")},
    "extracted": None,
    "is_correct": False,
  }
  rows: list[dict[str, Any]] = [
    {"step": 0, "kind": "phase", "phase": "base", "seconds": 1.5},
    {"step": 0, "kind": "params", "sha256": made_up.sha("params")},
    *(
      {"kind": "metrics", "step": s, **made_up.metrics(), "visits": visits}
      for s in (1, 2)
    ),
    {"kind": "result", **result},
    {"step": 2, "kind": "evaluation_seconds", "seconds": 0.5},
    {
      "step": 2,
      "kind": "output",
      "path": OUTPUTS,
      "sha256": files.sha256(outputs),
      "num_bytes": len(outputs),
      "split": "test",
      "decoder": "greedy",
    },
    {"step": 2, "kind": "sample", **sample},
    {"step": 2, "kind": "stuck", **stuck},
    {
      "step": 2,
      "kind": "usage",
      "peak_memory_bytes": 10**9,
      "first_step_seconds": 2.5,
      "compilation": {"num_compiled": 3, "num_read": 0, "seconds": 1.0},
    },
    {"step": 2, "kind": "checkpoint", "sha256": made_up.sha("checkpoint")},
  ]
  report = record.build_report(
    made_up.make_header(steps=2), rows, "complete", None
  )
  (folder / OUTPUTS).parent.mkdir(parents=True)
  (folder / OUTPUTS).write_bytes(outputs)
  journal = "".join(map(files.to_json_line, rows))
  (folder / record.JOURNAL).write_text(journal)
  made_up.write(folder / "report.json", report)


def sealed(report: Any) -> Any:
  """The report with hashes of what it is now, as a forger would write them."""
  if not isinstance(report, dict):
    return report
  try:
    return record.sealed(report)
  except (KeyError, TypeError, AttributeError, ValueError, RecursionError):
    bare = {key: v for key, v in report.items() if key not in seals.SEALS}
    return bare | seals.seal(bare)


def with_part(folder: pathlib.Path, name: str, content: bytes) -> None:
  """Replaces a part of a run, and its hash in journal and report."""
  (folder / name).write_bytes(content)
  report = json.loads((folder / "report.json").read_text())
  for part in report["parts"]:
    if part["path"] == name:
      part |= {"sha256": files.sha256(content), "num_bytes": len(content)}
  (folder / "report.json").write_text(to_json(sealed(report)))


# What reads them.


def run(*arguments: Any) -> None:
  """Runs a command, and checks how it ends and what it prints."""
  out, err = io.StringIO(), io.StringIO()
  with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
    status = cli.main([*map(str, arguments)])
  assert status in (0, 1, 2), status
  said = err.getvalue()
  if status == 2:
    assert re.fullmatch(r"t5x: error: [^\n]+\n", said), said
  assert not _UNSAFE.search(out.getvalue() + said)


def read_all(
  rng: random.Random, folder: pathlib.Path, whole: pathlib.Path
) -> None:
  """Has all commands that read reports read one."""
  run("show", folder)
  run("verify", folder)
  run("compare", *rng.sample((folder, whole), 2))


def fuzz_report(rng: random.Random, run_folder, folder) -> None:
  """A report with other values, whose hashes fit."""
  source = QUICKSTART if rng.random() < 0.05 else run_folder
  shutil.copytree(source, folder)
  report = json.loads((folder / "report.json").read_text())
  report = mutated_tree(rng, report)
  if rng.random() < 0.9:
    report = sealed(report)
  (folder / "report.json").write_text(to_json(report))
  read_all(rng, folder, source)
  with contextlib.suppress(UserError):
    page.render(record.read_whole(folder))


def fuzz_report_bytes(rng: random.Random, run_folder, folder) -> None:
  """A damaged file in a report's place."""
  shutil.copytree(run_folder, folder)
  path = folder / "report.json"
  path.write_bytes(mutated_bytes(rng, path.read_bytes()))
  read_all(rng, folder, run_folder)


def fuzz_journal(rng: random.Random, run_folder, folder) -> None:
  """A journal of other rows, whose hash fits."""
  shutil.copytree(run_folder, folder)
  path = folder / record.JOURNAL
  if rng.random() < 0.3:
    content = mutated_bytes(rng, path.read_bytes())
  else:
    rows = mutated_tree(rng, [json.loads(line) for line in path.open()])
    rows = rows if isinstance(rows, list) else [rows]
    content = "".join(to_json(row) + "\n" for row in rows).encode()
  with_part(folder, record.JOURNAL, content)
  read_all(rng, folder, run_folder)
  with contextlib.suppress(UserError):
    page.render(record.read_whole(folder))


def fuzz_outputs(rng: random.Random, run_folder, folder) -> None:
  """Stored completions of another form, whose hashes fit."""
  shutil.copytree(run_folder, folder)
  path = folder / OUTPUTS
  if rng.random() < 0.3:
    content = mutated_bytes(rng, path.read_bytes())
  else:
    lines = mutated_tree(rng, [json.loads(line) for line in path.open()])
    lines = lines if isinstance(lines, list) else [lines]
    content = "".join(to_json(line) + "\n" for line in lines).encode()
  with_part(folder, OUTPUTS, content)
  run("verify", folder)
  run("score", "--task=chain", folder / OUTPUTS)


def fuzz_table(rng: random.Random, run_folder, folder) -> None:
  """A table of other reports, or with another description."""
  del run_folder
  folder.mkdir()
  path = made_up.write_case(folder, seeds=(0, 1))
  if rng.random() < 0.5:
    path.write_text(_mutated_toml(rng, made_up.SPEC), "utf-8", "surrogatepass")
  else:
    file = rng.choice(sorted((folder / "runs").iterdir()))
    report = sealed(mutated_tree(rng, json.loads(file.read_text())))
    file.write_text(to_json(report))
  with contextlib.suppress(UserError):
    table = cells.fill(found := spec.read(path), reports.collect(found))
    texts = (text.markdown(table), text.latex(table), text.csv_lines(table))
    assert not _UNSAFE.search("".join(texts))
    files.to_json(text.provenance(table))


def _mutated_toml(rng: random.Random, toml: str) -> str:
  lines = toml.splitlines()
  for _ in range(rng.choice((1, 2, 4))):
    at = rng.randrange(len(lines))
    key, equals, _ = lines[at].partition(" = ")
    action = rng.randrange(4)
    if action == 0:
      del lines[at]
    elif action == 1:
      lines.insert(at, rng.choice(lines))
    elif equals and action == 2:
      odd = rng.choice(ODD)
      shown = json.dumps(odd) if odd is not None else "nan"
      lines[at] = f"{key} = {shown}"
    else:
      lines[at] = mutated_bytes(rng, lines[at].encode()).decode("latin-1")
    lines = lines or [""]
  return "\n".join(lines)


def fuzz_exemplars(rng: random.Random, run_folder, folder) -> None:
  """Worked examples of another form."""
  del run_folder
  folder.mkdir()
  path = folder / "exemplars.jsonl"
  rows = [
    {"question": "1+1 mod 7", "answer": "2", "completion": "The answer is 2."}
  ] * 2
  if rng.random() < 0.5:
    lines = "".join(map(files.to_json_line, rows)).encode()
    path.write_bytes(mutated_bytes(rng, lines))
  else:
    rows = mutated_tree(rng, rows)
    rows = rows if isinstance(rows, list) else [rows]
    path.write_text("".join(to_json(row) + "\n" for row in rows))
  info = common.INFO["chain_v1"]
  with contextlib.suppress(UserError):
    common.read_exemplars("chain", info, Prompts(exemplars=str(path)), None)


def fuzz_cache(rng: random.Random, run_folder, folder) -> None:
  """A damaged cache of a task, or one with other arrays."""
  folder.mkdir()
  path = folder / "chain.npz"
  cache = run_folder.parent / "chain.npz"
  if rng.random() < 0.5:
    path.write_bytes(mutated_bytes(rng, cache.read_bytes()))
  else:
    arrays = dict(np.load(cache))
    name = rng.choice(sorted(arrays))
    try:
      tree = mutated_tree(rng, json.loads(arrays[name].tobytes()))
      content = to_json(tree).encode()
      arrays[name] = np.frombuffer(content, arrays[name].dtype)
    except ValueError:  # an array of numbers, or a text that has no such end
      arrays[name] = rng.choice(ODD_ARRAYS)
    np.savez(path, **arrays)
  with contextlib.suppress(UserError):
    opening.open_task(Source("chain", cache=str(path)))


Target = Callable[[random.Random, pathlib.Path, pathlib.Path], None]
# How often each is taken.
TARGETS: dict[Target, int] = {
  fuzz_report: 40,
  fuzz_report_bytes: 10,
  fuzz_journal: 20,
  fuzz_outputs: 6,
  fuzz_table: 14,
  fuzz_exemplars: 4,
  fuzz_cache: 6,
  folders_fuzz.fuzz_manifest: 3,
  folders_fuzz.fuzz_drawn: 4,
  folders_fuzz.fuzz_rationales: 3,
}


@contextlib.contextmanager
def material() -> Iterator[pathlib.Path]:
  """A folder with what is mutated: a run, and the cache of a task."""
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    write_run(folder / "run")
    with mock.patch.object(seqio_task, "_read_rows", _read_once()):
      run("cache", "--task=chain", f"--output={folder / 'chain.npz'}")
      yield folder


def _read_once() -> Callable[..., Any]:
  """Reads each split of a task once: no mutation changes the task."""
  read, known = seqio_task._read_rows, {}

  def remembered(task, split, bos_id):
    key = task.name, split, bos_id
    if key not in known:
      known[key] = read(task, split, bos_id)
    return known[key]

  return remembered


def fuzz(number: int, first: int = 0) -> None:
  """Makes mutations; each is a function of its own number.

  Raises:
    AssertionError: If one is not handled; names the number of the first.
  """
  with material() as folder:
    read_all(random.Random(0), folder / "run", folder / "run")
    for seed in range(first, first + number):
      rng = random.Random(seed)
      (target,) = rng.choices([*TARGETS], [*TARGETS.values()])
      try:
        target(rng, folder / "run", folder / "case")
      except Exception as error:
        raise AssertionError(f"mutation {seed} ({target.__name__})") from error
      finally:
        shutil.rmtree(folder / "case", ignore_errors=True)


if __name__ == "__main__":
  fuzz(*map(int, sys.argv[1:]))
