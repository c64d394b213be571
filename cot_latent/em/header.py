"""The part of a report that is known before a run begins or resumes."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from cot_latent.inference import rng
from cot_latent.models import digests
from cot_latent.reporting import environment, record, seals
from cot_latent.reporting.health import Limits
from cot_latent.runtime import files

# Random numbers and rounding depend on these.
_JAX_SETTINGS = (
  "jax_default_prng_impl",
  "jax_threefry_partitionable",
  "jax_enable_x64",
  "jax_default_matmul_precision",
)


def build_header(
  *,
  identity: Mapping[str, Any],
  module: str | None,
  configuration: Mapping[str, Any],
  data: Mapping[str, Any],
  params: Any,
  topology: dict[str, Any],
  plan: Mapping[str, Any],
  limits: Limits,
) -> tuple[dict[str, Any], str]:
  """Makes the sections of a report that do not change during a run.

  Args:
    identity: The section identity, with the seed and without the time.
    module: A module outside the package that counts as code too.
    configuration: The section configuration.
    data: The section data.
    params: A tree of the trained parameters, or of their shapes.
    topology: Number of processes and arrangement of devices.
    plan: The section plan.
    limits: Limits beyond which a complete run is suspect.

  Returns:
    The sections, and the changes to the code.
  """
  code, diff = environment.code(module)
  seed = identity["seed"]
  sections: dict[str, Any] = {
    "identity": {**identity, "started": record.now()},
    "code": code,
    "configuration": dict(configuration),
    "data": dict(data),
    "model": digests.describe(params),
    "randomness": {
      "seed": seed,
      "rule": rng.RULE,
      "settings": {name: getattr(jax.config, name) for name in _JAX_SETTINGS},
      "test_vectors": rng.test_vectors(seed),
    },
    "environment": environment.describe(
      [f"{d.platform}:{d.id} {d.device_kind}" for d in jax.devices()],
      topology,
    ),
    "plan": dict(plan),
    "diagnostics": {"limits": dataclasses.asdict(limits)},
    "continuity": {"resumes": []},
    "replication": [],
    "parts": [],
  }
  if diff:
    content = diff.encode()
    sections["parts"].append(
      {
        "path": record.DIFF,
        "sha256": files.sha256(content),
        "num_bytes": len(content),
      }
    )
  return sections, diff


def keep_original_sections(
  sections: dict[str, Any], old: Mapping[str, Any]
) -> dict[str, Any]:
  """Keeps the original sections: those of the process that began the run.

  Args:
    sections: The sections of this process; changed in place.
    old: The report of the run.

  Returns:
    How this process differs from the one that began the run.
  """
  resumption = {
    "at": record.now(),
    "argv": sections["identity"]["argv"],
    "code": environment.code_differences(old["code"], sections["code"]),
    "environment": {
      name: [was, now_is]
      for name, was, now_is in seals.differences(
        old["environment"], sections["environment"]
      )
    },
  }
  for name in ("identity", "code", "environment", "replication", "continuity"):
    sections[name] = old[name]
  sections["parts"] = [p for p in old["parts"] if p["path"] == record.DIFF]
  return resumption
