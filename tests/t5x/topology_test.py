"""T5X's meshes on TPUs that only libtpu describes."""

import importlib.util
from unittest import mock

import jax
import pytest
from t5x import partitioning

from cot_latent.errors import UserError
from cot_latent.planning import chips
from cot_latent.t5x import one_line

pytestmark = pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None, reason="needs libtpu"
)


def mesh(topology, **settings):
  """T5X's mesh as on these chips; shapes of its axes."""
  devices = chips.describe_devices(topology)
  local = [device for device in devices if device.process_index == 0]
  with mock.patch.multiple(
    jax,
    devices=lambda *_: devices,
    local_devices=lambda *_: local,
    local_device_count=lambda: len(local),
  ):
    return dict(partitioning.PjitPartitioner(**settings).mesh.shape)


@pytest.mark.parametrize("topology", ["v5e:4x4", "v6e:4x4", "v5p:2x2x4"])
def test_the_chips_that_share_parameters_are_named(topology):
  submesh = {"num_partitions": None, "model_parallel_submesh": (2, 2, 1, 1)}
  assert mesh(topology, **submesh) == {"data": 4, "model": 4}
  with pytest.raises(ValueError, match="No default mesh") as found:
    mesh(topology, num_partitions=4)
  with pytest.raises(UserError, match="set NUM_PARTITIONS = None and MODEL_PA"):
    one_line.explain(found.value)
