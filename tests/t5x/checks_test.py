"""What T5X would do otherwise is refused, by the binding's name."""

import pytest

from cot_latent.errors import UserError
from cot_latent.t5x import checks
from tests.t5x import small


def test_good_settings_pass():
  checks.check_settings(small.GOOD, 0)
  checks.check_settings(small.GOOD._replace(save=None, save_dataset=None), 0)
  for model in (small.encoder_decoder(), small.decoder_only()):
    checks.check_model(model)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"random_seed": None}, "RANDOM_SEED = None"),
    ({"random_seed": 3}, "RANDOM_SEED = 3 and SEED = 0"),
    ({"use_hardware_rng": True}, "USE_HARDWARE_RNG = True"),
    ({"save_dataset": False}, r"SaveCheckpointConfig\.save_dataset must"),
    ({"save_dataset": None}, r"SaveCheckpointConfig\.save_dataset must"),
  ],
)
def test_settings(change, message):
  with pytest.raises(UserError, match=message) as raised:
    checks.check_settings(small.GOOD._replace(**change), 0)
  assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"z_loss": 1e-4}, "Z_LOSS = 0.0001"),
    ({"label_smoothing": 0.1}, "LABEL_SMOOTHING = 0.1"),
    ({"loss_normalizing_factor": 128}, "LOSS_NORMALIZING_FACTOR = 128"),
    (
      {"loss_normalizing_factor": "NUM_REAL_TARGET_TOKENS"},
      "LOSS_NORMALIZING_FACTOR = 'NUM_REAL",
    ),
    ({"dropout_rate": 0.1}, "DROPOUT_RATE = 0.1"),
    ({"decode_fn": small.decoding.beam_search}, "decode_fn cannot draw"),
  ],
)
def test_models(change, message):
  with pytest.raises(UserError, match=message) as raised:
    checks.check_model(small.encoder_decoder(**change))
  assert "\n" not in str(raised.value)
