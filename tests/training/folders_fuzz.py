"""Mutates what a run reads again in its own folder.

The manifests of its checkpoints, what it has drawn since the last of them, and
the worked examples that it drew.
"""

import contextlib
import functools
import io
import json
import random
from typing import Any

import jax
import numpy as np

from cot_latent.em.drawn_parts import DrawnParts
from cot_latent.errors import UserError
from cot_latent.models.api import Draws
from cot_latent.runtime import files
from cot_latent.training import bootstrap, checkpoints
from tests.reporting.mutations import (
  ODD_ARRAYS,
  mutated_bytes,
  mutated_tree,
  to_json,
)
from tests.training import toy


def fuzz_manifest(rng: random.Random, run_folder, folder) -> None:
  """Two checkpoints, of which one has another manifest or another file."""
  del run_folder
  for step in (2, 4):
    (folder / f"{step}/default").mkdir(parents=True)
    (folder / f"{step}/default/array").write_bytes(b"numbers")
    checkpoints._write_manifest(folder / str(step))
  path = folder / str(rng.choice((2, 4))) / "sha256.json"
  if rng.random() < 0.2:
    path = path.with_name("default") / "array"
  if path.suffix and rng.random() < 0.6:
    path.write_text(to_json(mutated_tree(rng, json.loads(path.read_text()))))
  else:
    path.write_bytes(mutated_bytes(rng, path.read_bytes()))
  with _silent(), contextlib.suppress(UserError):
    checkpoints._set_aside_damaged(folder, "begin again")


def fuzz_drawn(rng: random.Random, run_folder, folder) -> None:
  """A part of what was drawn that is damaged, or whose hash fits."""
  del run_folder
  drawn = Draws(np.ones((2, 3), np.int32), np.array([True, False]))

  def draw():
    phase = DrawnParts(folder).phase("memory", 0, "model")
    keys = jax.random.split(jax.random.key(0), 2)
    return phase.draw(lambda: drawn, np.ones((2, 4), np.int32), keys).draws

  draw()
  (path,) = folder.rglob("*.part")
  content = path.read_bytes()
  if rng.random() < 0.5:
    path.write_bytes(mutated_bytes(rng, content))
  else:
    line, archive = content.split(b"\n", maxsplit=1)
    with np.load(io.BytesIO(archive)) as stored:
      arrays = dict(stored)
    name = rng.choice([*arrays, "log_prob", "more"])
    arrays[name] = rng.choice(ODD_ARRAYS)
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    said = json.loads(line) | {"sha256": files.sha256(stream.getvalue())}
    if rng.random() < 0.3:
      said = mutated_tree(rng, said)
    path.write_bytes(to_json(said).encode() + b"\n" + stream.getvalue())
  with _silent():
    found = draw()
  assert found.tokens.shape[0] == 2
  assert found.ended.shape == (2,)


def fuzz_rationales(rng: random.Random, run_folder, folder) -> None:
  """Worked examples that a run drew, of another form."""
  del run_folder
  folder.mkdir()
  data = _data()
  rows = [_exemplar(data, row)._asdict() for row in (0, 1)]
  if rng.random() < 0.5:
    content = mutated_bytes(
      rng, "".join(map(files.to_json_line, rows)).encode()
    )
  else:
    odd = mutated_tree(rng, rows)
    odd = odd if isinstance(odd, list) else [odd]
    content = "".join(to_json(row) + "\n" for row in odd).encode()
  (folder / "exemplars.jsonl").write_bytes(content)
  with contextlib.suppress(UserError):
    bootstrap.use(data, bootstrap.read(folder, files.sha256(content), data))


@functools.cache
def _data() -> Any:
  """Training questions of a single task."""
  config = toy.make_experiment("unused", toy.CHAIN)
  return toy.load(config)


def _exemplar(data: Any, row: int) -> bootstrap.Exemplar:
  train = data.train
  return bootstrap.Exemplar(
    id=train.ids[row],
    task=train.tasks[row],
    question=train.questions[row],
    answer=train.answers[row],
    completion="The answer is 2.",
    tokens=[5, 6, 7],
  )


@contextlib.contextmanager
def _silent():
  """Checks that what is said is of whole lines that a terminal may show."""
  said = io.StringIO()
  with contextlib.redirect_stderr(said):
    yield
  assert said.getvalue().replace("\n", "").isprintable(), said.getvalue()
