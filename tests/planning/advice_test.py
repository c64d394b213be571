"""What a plan advises can be done."""

import pytest

from cot_latent.models import decoder
from cot_latent.planning import advice
from tests.training import toy


@pytest.mark.parametrize(
  ("heads", "endings"),
  [
    # 16 / 4 parts are enough for 6 rows, and 16 / 8 for 3.
    (8, ["or NUM_MODEL_SHARDS = 4", "or NUM_MODEL_SHARDS = 8"]),
    (6, ["use more rows"] * 2),
  ],
)
def test_idle_chips_are_told_sizes_that_divide_the_model(heads, endings):
  model = decoder.DecoderConfig(1, 16, heads, 8, 32)
  config = toy.make_experiment("unused", model=model, batch_size=3)
  lines = advice.idle_chips(config, {"data": 16, "model": 1})
  assert len(lines) == 2
  for line, rows, ending in zip(lines, (6, 3), endings, strict=True):
    assert f"a step's {rows} rows go to 16 parts" in line
    assert line.endswith(ending)
