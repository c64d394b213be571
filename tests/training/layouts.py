"""One run on several meshes, in a process with eight simulated devices.

  python -m tests.training.layouts FOLDER METHOD 1x1 4x2 ...

Writes FOLDER/<mesh>.npz (parameters, and the memory's arrays) and prints a JSON
line a mesh: what was chosen and counted, and how arrays were cut.
"""

import json
import pathlib
import sys

import jax
import numpy as np

from cot_latent.inference import estimators, rivals
from cot_latent.models.decoder import DecoderConfig
from cot_latent.models.partitioning import MeshConfig
from cot_latent.training import experiment, train
from tests.training import toy

METHODS = {
  "trice": experiment.Method("trice", estimators.control_variate()),
  # Loops of three steps, each from the base model, with hints.
  "star": experiment.Method(
    "star",
    rivals.rejection_sampling(pooled=True),
    memory_start="empty",
    refit=experiment.Refit(
      "greedy", hint_on_failure=True, restart=True, first_steps=3
    ),
  ),
}


def main(folder, method, *meshes):
  for mesh in meshes:
    data, model = map(int, mesh.split("x"))
    config = toy.make_experiment(
      pathlib.Path(folder) / mesh,
      model=DecoderConfig(1, 16, num_heads=4, head_dim=4, mlp_dim=32),
      method=METHODS[method],
      mesh=MeshConfig(data, model),
      steps=5,
    )
    save = train._Run.save
    seen = {}

    def keep(self, state, save=save, seen=seen):
      save(self, state)
      seen["state"] = state

    train._Run.save = keep
    report = toy.run(config)
    train._Run.save = save
    state = seen["state"]
    arrays = {
      **{f"memory/{k}": v for k, v in state.memory._asdict().items()},
      **{
        f"params{jax.tree_util.keystr(path)}": leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(state.params)
      },
    }
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    np.savez(pathlib.Path(folder) / f"{mesh}.npz", **arrays)
    layer = state.params["layer_0"]
    cut = {
      "query": layer["query"]["kernel"],
      "moments": state.opt_state[1].mu["layer_0"]["query"]["kernel"],
      "gate": layer["gate"]["kernel"],
      "memory": state.memory.tokens,
    }
    print(
      json.dumps(
        {
          "mesh": report["environment"]["mesh"],
          "choices": [row["choices"] for row in report["metrics"]],
          "correct": [row["correct"] for row in report["results"]],
          "parts": {
            name: list(array.addressable_shards[0].data.shape)
            for name, array in cut.items()
          },
        }
      ),
      flush=True,
    )


if __name__ == "__main__":
  jax.config.update("jax_num_cpu_devices", 8)
  main(*sys.argv[1:])
