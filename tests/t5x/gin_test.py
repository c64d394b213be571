"""Every file of gin/t5x/ is read by T5X, and every method trains in it."""

import pathlib

import gin
import numpy as np
import pytest
from t5x import train as train_script

from cot_latent import cli
from cot_latent.configuration import parsing
from cot_latent.t5x import launch
from tests import configs_test, memory_writer
from tests.params import by_day
from tests.t5x import fitted, runs

FOLDERS = parsing.package_folders()
RUNS = [
  name
  for name in configs_test.IN_T5X
  if not name.endswith(("_model.gin", "common.gin", "parameters_only.gin"))
]
STEPS = 5
LOOPED = {"rest_em", "star"}
# These learn from the data's own rationales, and draw nothing.
GIVEN = {"cot_supervised", "direct"}
# Those whose likelihood is the checker's.
METHODS = [
  name
  for name in configs_test.METHODS
  if not configs_test.made_of((name,)).method.scores_answers()
]


@pytest.fixture(autouse=True)
def _leave_no_configuration():
  yield
  gin.clear_config()


@pytest.fixture
def checkpoint(tmp_path):
  """What looks like one, of which a dry run reads nothing."""
  path = tmp_path / "base" / "checkpoint_1500"
  (path / "state").mkdir(parents=True)
  return path


def dry_run(capsys, name, *flags):
  status = cli.main(
    [
      *("train", "--dry_run", f"--gin_file={name}"),
      *("--gin.MODEL_DIR='/nowhere'", *flags),
    ]
  )
  return status, capsys.readouterr()


@pytest.mark.parametrize("name", RUNS)
def test_a_run_dry_runs(name, capsys, data_dir, checkpoint):
  flags = []
  if "base" not in name:
    flags.append(f"--gin.INITIAL_CHECKPOINT_PATH='{checkpoint}'")
  if "gsm8k" in name:
    flags += ["--gin.VOCABULARY_FILE=None", "--gin.TRAIN_STEPS=1_000_100"]
    flags.append(f"--data_dir={data_dir}")
  status, shown = dry_run(capsys, name, *flags)
  assert status == 0, shown.err
  assert "# Macros:" in shown.out
  if "trice" in name:
    assert "a step samples" in shown.out
  else:
    assert "no rationales are drawn" in shown.out
  assert not pathlib.Path("/nowhere").exists()


@pytest.mark.parametrize(
  ("model", "width"),
  [
    ("t5x/examples/t5/t5_1_1/xl.gin", 2048),
    ("t5x/examples/scalable_t5/t5_1_1/xxl.gin", 4096),
    ("gin/t5x/ul2_model.gin", 4096),
    ("t5x/examples/t5/byt5/small.gin", 1472),
  ],
)
def test_another_size_dry_runs(model, width, data_dir, checkpoint):
  # In a process of its own: gin cannot tell T5X's networks from each other.
  done = runs.run_well(
    "/nowhere",
    *("--dry_run", "--gin_file=gin/t5x/trice_gsm8k_common.gin"),
    f"--gin.INITIAL_CHECKPOINT_PATH='{checkpoint}'",
    f"--data_dir={data_dir}",
    *("--gin.VOCABULARY_FILE=None", "--gin.TRAIN_STEPS=1_000_100"),
    gin_file=model,
    by_t5x=False,
  )
  assert f"emb_dim = {width}" in done.stdout
  assert "a step samples" in done.stdout


CHAIN = "gin/t5x/trice_chain.gin"


@pytest.mark.parametrize(
  ("flag", "message"),
  [
    ("--gin.Z_LOSS=1e-4", "Z_LOSS = 0.0001"),
    ("--gin.LABEL_SMOOTHING=0.1", "LABEL_SMOOTHING = 0.1"),
    ("--gin.DROPOUT_RATE=0.1", "DROPOUT_RATE = 0.1"),
    ("--gin.LOSS_NORMALIZING_FACTOR=9", "LOSS_NORMALIZING_FACTOR = 9"),
    ("--gin.RANDOM_SEED=None", "RANDOM_SEED = None"),
    ("--gin.RANDOM_SEED=5", "RANDOM_SEED = 5 and SEED = 0"),
    ("--gin.USE_HARDWARE_RNG=True", "USE_HARDWARE_RNG = True"),
    ("--gin.utils.SaveCheckpointConfig.save_dataset=False", "save_dataset"),
    ("--gin.utils.SaveCheckpointConfig.dtype='bfloat16'", "'bfloat16'"),
    (
      "--gin.trainer.Trainer.num_microbatches=2",
      "bind latent_trainer.LatentTrainer.num_microbatches",
    ),
    (
      "--gin.trainer.Trainer.learning_rate_fn=@source.Source",
      "bind latent_trainer.LatentTrainer.learning_rate_fn",
    ),
    ("--gin.MODEL_DIR='runs/x'", "DIR = 'runs/x' must be an absolute path"),
    ("--gin.INITIAL_CHECKPOINT_PATH='x'", "PATH = 'x' must be an absolute"),
    ("--gin.INITIAL_CHECKPOINT_PATH='/nowhere'", "'/nowhere' does not exist"),
    ("--gin.TRAIN_STEPS_RELATIVE=5", "set TRAIN_STEPS to the steps of"),
    (
      "--gin.TRAIN_STEP=9",
      "TRAIN_STEP; did you mean TRAIN_STEPS",
    ),
    ("--gin.trian/utils.DatasetConfig.seed=3", "uses .* did you mean train/"),
    ("--gin.TASK_FEATURE_LENGTHS={'inputs': 8}", "PROMPT_LENGTH and MAX_LENG"),
    ("--gin.MIXTURE_OR_TASK_NAME='chian_v1'", "NAME = 'chian_v1': no task"),
    ("--gin_file=gin/runs/quickstart.gin", "this is for the embedded trainer"),
    ("--gin_file=gin/tuning/lora.gin", "lora.gin: this is for the embedded"),
    (
      "--gin_file=gin/plans/llama3_1_8b.gin",
      "8b.gin: this is for the embedded",
    ),
    ("--gin.TASK='chian'", "did you mean chain"),
    ("--gin.BATCH_SIZE=100_000", "set a smaller BATCH_SIZE"),
    ("--gin.MAX_LENGTH='x'", "TaskConfig.max_length"),
    ("--gin.latent.Latent.sed=3", "no parameter sed"),
    ("--gin.METHOD=", "write it as|has no value"),
  ],
)
def test_a_mistake_is_one_line(flag, message, capsys):
  given = ["--gin.INITIAL_CHECKPOINT_PATH=[]", flag]
  status, shown = dry_run(capsys, CHAIN, *given)
  assert status == 2
  (line,) = [
    line for line in shown.err.splitlines() if line.startswith("t5x: error")
  ]
  assert configs_test.re.search(message, line)
  assert "Traceback" not in shown.err


def test_a_file_that_only_includes_t5x_s_own_is_for_t5x(tmp_path):
  path = tmp_path / "finetune.gin"
  path.write_text("include 't5x/configs/runs/finetune.gin'\n")
  assert parsing.asks_for_t5x([str(path)], [])
  path.write_text("include 'gin/runs/quickstart.gin'\n")
  assert not parsing.asks_for_t5x([str(path)], [])


def test_a_folder_of_checkpoints_is_no_checkpoint(checkpoint, capsys):
  given = f"--gin.INITIAL_CHECKPOINT_PATH='{checkpoint.parent}'"
  status, shown = dry_run(capsys, CHAIN, given)
  assert status == 2
  assert f"give one of them, such as '{checkpoint}'" in shown.err


def test_a_run_with_checkpoints_of_its_own_needs_no_other(
  checkpoint, capsys, tmp_path
):
  given = "--gin.INITIAL_CHECKPOINT_PATH='/nowhere'"
  own = f"--gin.MODEL_DIR='{checkpoint.parent}'"
  status, shown = dry_run(capsys, CHAIN, given, own)
  assert status == 0, shown.err


@pytest.mark.parametrize("flag", ["TRAIN_STEP=9", "optax.adam.b1=0.5"])
def test_a_binding_for_nothing_is_refused_in_t5x_own_training(flag, capsys):
  status, shown = dry_run(
    capsys,
    "gin/t5x/chain_base.gin",
    "--gin.OPTIMIZER=@utils.create_learning_rate_scheduler",
    f"--gin.{flag}",
  )
  assert status == 2
  assert f"--gin.{flag}: nothing uses" in shown.err


def test_files_with_each_method_bind_nothing_that_is_unused():
  for method in METHODS:
    with launch.as_main(train_script):
      launch.parse(
        train_script,
        [CHAIN, method],
        ["MODEL_DIR = '/nowhere'", "INITIAL_CHECKPOINT_PATH = '/nowhere'"],
        FOLDERS,
      )


def test_another_learning_rate_is_bound_for_this_trainer(capsys):
  rate = "mine/utils.create_learning_rate_scheduler"
  status, shown = dry_run(
    capsys,
    CHAIN,
    "--gin.INITIAL_CHECKPOINT_PATH=[]",
    f"--gin.latent_trainer.LatentTrainer.learning_rate_fn=@{rate}()",
  )
  assert status == 0, shown.err


def test_what_t5x_provides_and_requires_is_known():
  root = pathlib.Path(train_script.__file__).parents[1]
  for name, (given, asked) in configs_test.THEIRS.items():
    text = configs_test.read_text((root / name).read_text())
    assert configs_test.given_by(text) == given
    needed = text.values().keys() | text.macros - {"gin.REQUIRED"}
    assert needed - given == asked


def train(directory, *gin_files, bindings=(), periods=STEPS):
  """Runs T5X's train in this process; gives its last step and state."""
  with launch.as_main(train_script):
    configured = launch.parse(
      train_script,
      gin_files,
      [
        *(f"TRAIN_STEPS = {STEPS}", f"MODEL_DIR = '{directory}'"),
        *(f"EVAL_PERIOD = {periods}", f"CHECKPOINT_PERIOD = {periods}"),
        *bindings,
      ],
      FOLDERS,
    )
    return configured()


@pytest.mark.parametrize(
  "method",
  by_day(
    [m for m in METHODS if "few_shot" not in m],
    *(f"gin/methods/{name}.gin" for name in ("trice", "rloo", "star")),
  ),
)
def test_a_method_trains(method, tmp_path):
  files = [runs.SMALL, method]
  name = pathlib.Path(method).stem
  smaller = ["NUM_SCORED = 5"] if name == "trice_subsampled" else []
  if "trice" not in name and name not in GIVEN | {"star"}:
    smaller.append("NUM_DRAWS = 2")
  if name == "direct":
    smaller.append("PROMPT_LENGTH = 72")  # its prompts say more
  if name in LOOPED:  # one at random has no rationale to begin with
    files.append("gin/t5x/parameters_only.gin")
    base = fitted.write(tmp_path / "base", fitted.SMALL, 264)
    smaller += [f"INITIAL_CHECKPOINT_PATH = '{base}'", "LOOP_STEPS = 2"]
  step, state = train(tmp_path / "run", *files, bindings=smaller)
  assert step == int(state.step) == STEPS
  stored = runs.memory(tmp_path / "run", STEPS)
  if name in GIVEN:
    written = stored["accepted_at"] == 1
    np.testing.assert_array_equal(written, stored["is_correct"])
    assert written.any()
  elif name in LOOPED:
    # Loops that begin with the steps 1, 3 and 5.
    draws, ends_at = (2, 6) if name == "rest_em" else (1, 7)
    assert int(stored["pool_loop"]) == 2
    assert int(stored["pool_ends_at"]) == ends_at
    assert stored["num_proposed"].sum() == 3 * 24 * draws
    assert stored["pool_is_correct"].any()
  else:
    draws = 1 if "trice" in name else 2
    assert stored["num_proposed"].sum() == STEPS * 8 * draws
  before, after = (runs.parameters(tmp_path / "run", n) for n in (0, STEPS))
  assert any(
    not np.array_equal(before[name], after[name])
    for name in before
    if name.startswith("target/")
  )


def test_few_shot_evaluates_alone(tmp_path):
  method = "gin/methods/few_shot.gin"
  step, _ = train(
    tmp_path / "run", runs.SMALL, method, bindings=["TRAIN_STEPS = 0"]
  )
  assert step == 0
  assert list((tmp_path / "run" / "inference_eval").glob("*-000000.jsonl"))


@pytest.mark.parametrize("name", ["small_decoder", "small_scanned"])
def test_another_network_trains(name, tmp_path):
  step, _ = train(tmp_path / "run", f"tests/t5x/{name}.gin")
  assert step == STEPS
  stored = runs.memory(tmp_path / "run", STEPS)
  assert stored["num_proposed"].sum() == STEPS * 8


def test_an_action_of_t5x_ends_it(tmp_path):
  step, _ = train(tmp_path / "run", "tests/t5x/stopped.gin", periods=2)
  assert step == 2
  assert int(runs.memory(tmp_path / "run", 2)["step"]) == 2


def test_metrics_and_a_profile_are_written(tmp_path):
  memory_writer.made.clear()
  profile = ["PROFILE_STEPS = (2, 3)"]
  files = (runs.SMALL, "tests/t5x/watched.gin")
  train(tmp_path / "run", *files, bindings=profile)
  (writer,) = memory_writer.made
  assert writer.is_closed
  assert [step for step, row in writer.scalars if "grad/loss" in row] == [
    *range(1, STEPS + 1)
  ]
  assert len(writer.values("eval/greedy_accuracy")) == 2
  assert len(list((tmp_path / "run" / "profile").rglob("*.xplane.pb"))) == 1


def test_methods_with_a_pool_are_these():
  looped = set()
  for method in configs_test.METHODS:
    made = configs_test.made_of((method,))
    if made.method.loops is not None:
      looped.add(pathlib.Path(method).stem)
  assert looped == LOOPED | GIVEN
