"""From a checkpoint of transformers through `t5x train` and back to one."""

import json
import pathlib
import shutil

import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers

from benchmarks import exported, few_shot
from cot_latent import cli
from cot_latent.models.hf import config as hf_config
from tests.models.hf import tokenizer_checkpoints as tokenizers

torch.set_num_threads(1)

SIZES = {
  "hidden_size": 24,
  "intermediate_size": 32,
  "num_hidden_layers": 2,
  "num_attention_heads": 4,
  "num_key_value_heads": 2,
  "head_dim": 8,
}
SMALL = [
  "TRAIN_STEPS=3",
  "BATCH_SIZE=8",
  "EVAL_PERIOD=3",
  "EVAL_BATCH_SIZE=64",
  "NUM_VOTES=0",
  "ROWS_AT_ONCE=5",
  "DTYPE='float32'",
  "PARAM_DTYPE='float32'",
  "source.TaskConfig.prompt_length=64",
]


def save(model, folder):
  torch.manual_seed(0)
  for weight in model.parameters():
    weight.data.add_(torch.randn_like(weight), alpha=0.02)
  model.save_pretrained(folder)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
  """Checkpoints with weights and tokenizer: a Llama 3 and a ByT5."""
  root = tmp_path_factory.mktemp("sources")
  llama = shutil.copytree(tokenizers.folders()["llama_3"], root / "llama")
  config = transformers.LlamaConfig(
    **SIZES, vocab_size=384, tie_word_embeddings=True
  )
  save(transformers.LlamaForCausalLM(config), llama)
  byt5 = root / "byt5"
  config = transformers.T5Config(
    vocab_size=384,
    d_model=24,
    d_kv=8,
    d_ff=32,
    num_heads=3,
    num_layers=2,
    feed_forward_proj="gated-gelu",
    tie_word_embeddings=False,
    decoder_start_token_id=0,
  )
  save(transformers.T5ForConditionalGeneration(config), byt5)
  settings = {"tokenizer_class": "ByT5Tokenizer", "eos_token": "</s>"}
  (byt5 / "tokenizer_config.json").write_text(json.dumps(settings))
  return {"llama3_2_1b": llama, "byt5_small": byt5}


def train(model, source, directory, *arguments):
  # An untrained model never writes an answer: it learns from rationales.
  files = [
    "gin/runs/quickstart.gin",
    f"gin/models/{model}.gin",
    "gin/methods/cot_supervised.gin",
  ]
  files += [x for x in arguments if x.endswith(".gin")]
  bindings = [*SMALL, f"CHECKPOINT='{source}'", f"MODEL_DIR='{directory}'"]
  bindings += [x for x in arguments if not x.endswith(".gin")]
  status = cli.main(
    [
      "train",
      *(f"--gin_file={file}" for file in files),
      *(f"--gin.{binding}" for binding in bindings),
    ]
  )
  assert status == 0
  return json.loads((directory / "report.json").read_text())


def tensors(folder):
  return safetensors.numpy.load_file(folder / "model.safetensors")


def check_same_answers(directory, folder):
  """What transformers writes is what the last evaluation wrote."""
  model = transformers.LlamaForCausalLM.from_pretrained(folder).eval()
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  (path,) = (directory / "outputs").glob("*3-test-greedy.jsonl")
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  num_same = 0
  for row in rows[:8]:
    prompt = tokenizer(f"{row['question']}?\n", return_tensors="pt")
    written = model.generate(
      **prompt,
      max_new_tokens=40,
      do_sample=False,
      eos_token_id=tokenizer.convert_tokens_to_ids("<|end_of_text|>"),
      pad_token_id=tokenizer.convert_tokens_to_ids("<|more|>"),
    )[0, prompt["input_ids"].shape[1] :]
    text = tokenizer.decode(written, skip_special_tokens=True)
    num_same += text == row["completion"]
  # Of an untrained model two tokens may be equally likely, except for rounding.
  assert num_same >= 7


@pytest.fixture(scope="module")
def tuned(sources, tmp_path_factory):
  """A Llama tuned by updates: its folder and report."""
  directory = tmp_path_factory.mktemp("runs") / "lora"
  report = train(
    "llama3_2_1b",
    sources["llama3_2_1b"],
    directory,
    "gin/tuning/lora.gin",
    "LEARNING_RATE=1e-2",
  )
  return directory, report


def test_updates_are_merged(sources, tuned, tmp_path, capsys):
  directory, report = tuned
  source, folder = sources["llama3_2_1b"], tmp_path / "export"
  experiment = report["configuration"]["experiment"]
  assert experiment["base"] == {"path": str(source)}
  assert experiment["tuning"]["rank"] == 16
  assert report["data"]["vocabulary"].startswith("HuggingFaceVocabulary")
  capsys.readouterr()
  assert cli.main(["export", str(directory), f"--output={folder}"]) == 0
  assert "after step 3" in capsys.readouterr().out
  before, after = tensors(source), tensors(folder)
  assert before.keys() == after.keys()
  for name, old in before.items():
    is_target = name.endswith("proj.weight")
    assert (old != after[name]).any() == is_target, name
  check_same_answers(directory, folder)
  found = exported.compare(str(directory), str(folder), torch.float32)
  assert found["questions"] == 200
  assert found["same_texts"] >= 190  # two tokens may be equally likely


@pytest.mark.slow
def test_few_shot_answers_are_those_of_transformers(
  sources, data_dir, tmp_path, monkeypatch, capsys
):
  output = tmp_path / "found.json"
  arguments = [
    f"--data_dir={data_dir}",
    f"--checkpoint={sources['llama3_2_1b']}",
    "--tasks=bbh_boolean_expressions",
    *("--limit=5", "--batch_size=3", "--prompt_length=4096"),
    *("--max_length=12", f"--output={output}"),
  ]
  monkeypatch.setattr("sys.argv", ["few_shot", *arguments])
  few_shot.main()
  (found,) = json.loads(output.read_text())
  assert found["questions"] == len(found["rows"]) == 5
  assert len({row["id"] for row in found["rows"]}) == 5
  assert found["stop"] == ["\n\n"]
  same = [row for row in found["rows"] if row["ours"] == row["theirs"]]
  assert len(same) >= 3  # two tokens may be equally likely
  assert "5 questions" in capsys.readouterr().out


def test_the_base_model_may_have_moved(sources, tuned, tmp_path, capsys):
  source = sources["llama3_2_1b"]
  directory = shutil.copytree(tuned[0], tmp_path / "run")
  moved = source.rename(source.with_name("moved"))
  try:
    command = ["export", str(directory), f"--output={tmp_path / 'export'}"]
    assert cli.main(command) == 2
    assert "no folder" in capsys.readouterr().err
    assert (
      cli.main([*command, f"--checkpoint={moved}", "--dtype=bfloat16"]) == 0
    )
  finally:
    moved.rename(source)
  model = transformers.LlamaForCausalLM.from_pretrained(
    tmp_path / "export", dtype="auto"
  )
  assert model.dtype == torch.bfloat16
  command[-1] = f"--output={tmp_path / 'export'}"
  assert cli.main(command) == 2
  assert "exists already: name" in capsys.readouterr().err


@pytest.mark.slow
def test_a_checkpoint_that_is_fitted_first(sources, tmp_path, capsys):
  source, bases = sources["llama3_2_1b"], tmp_path / "bases"
  directories = [tmp_path / "run_0", tmp_path / "run_1"]
  reports = [
    train(
      "llama3_2_1b",
      source,
      directory,
      "gin/models/fitted.gin",
      "gin/tuning/lora.gin",
      "LEARNING_RATE=1e-2",
      "BASE_STEPS=4",
      f"BASE_DIR='{bases}'",
      "BASE_SEED=5",
      "STOP=('~',)",  # which the name of the fitted model has
      f"SEED={seed}",
    )
    for seed, directory in enumerate(directories)
  ]
  phases = [
    json.loads((directory / "journal.jsonl").read_text().splitlines()[0])
    for directory in directories
  ]
  assert [phase["was_read"] for phase in phases] == [False, True]
  assert phases[0]["frozen_sha256"] == phases[1]["frozen_sha256"]
  assert [r["configuration"]["experiment"]["seed"] for r in reports] == [0, 1]
  folder = tmp_path / "export"
  command = ["export", str(directories[1]), f"--output={folder}"]
  assert cli.main(command) == 0
  embedding = "model.embed_tokens.weight"  # fitted, and not updated after that
  assert (tensors(source)[embedding] != tensors(folder)[embedding]).any()
  check_same_answers(directories[1], folder)
  (fitted,) = bases.glob("*.npz")
  fitted.rename(tmp_path / "elsewhere")
  capsys.readouterr()
  assert cli.main([*command[:-1], f"--output={tmp_path / 'other'}"]) == 2
  assert f"is not in {bases}: `t5x train`" in capsys.readouterr().err


@pytest.mark.slow
def test_all_parameters_of_an_encoder_decoder(sources, tmp_path):
  source, directory = sources["byt5_small"], tmp_path / "run"
  report = train("byt5_small", source, directory, "LEARNING_RATE=1e-2")
  assert report["data"]["vocabulary"] == "ByteVocabulary(extra_ids=125)"
  folder = tmp_path / "export"
  assert cli.main(["export", str(directory), f"--output={folder}"]) == 0
  peers = transformers.T5ForConditionalGeneration
  model, found = peers.from_pretrained(folder, output_loading_info=True)
  assert not any(found.values())
  (path,) = (directory / "outputs").glob("*3-test-greedy.jsonl")
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  num_same = 0
  for row in rows[:8]:
    prompt = [byte + 3 for byte in f"{row['question']}?\n".encode()]
    written = model.eval().generate(
      torch.tensor([prompt]), max_new_tokens=40, do_sample=False, num_beams=1
    )[0, 1:]
    kept = bytes(t - 3 for t in written.tolist() if 3 <= t < 259)
    num_same += kept.decode(errors="ignore") == row["completion"]
  assert num_same >= 7
  assert (
    tensors(folder)["shared.weight"] != tensors(source)["shared.weight"]
  ).any()


def test_a_soft_prompt_leaves_the_model_alone(sources, tmp_path, capsys):
  source, directory = sources["llama3_2_1b"], tmp_path / "run"
  train(
    "llama3_2_1b",
    source,
    directory,
    "gin/tuning/soft_prompt.gin",
    "tuning.SoftPrompt.source=None",
    "tuning.SoftPrompt.text='Q: Question\\nA: The answer is'",
    "LEARNING_RATE=0.1",
  )
  (path,) = (directory / "outputs").glob("*-soft_prompt.npy")
  prompt = np.load(path)
  config = hf_config.read_config(source)
  assert prompt.dtype == np.float32
  assert prompt.shape[1] == config.embed_dim
  command = ["export", str(directory), f"--output={tmp_path / 'export'}"]
  assert cli.main(command) == 2
  assert "trains a soft prompt" in capsys.readouterr().err
  assert not (tmp_path / "export").exists()


def test_another_checkpoint_or_vocabulary_is_refused(sources, tmp_path, capsys):
  llama, byt5 = sources["llama3_2_1b"], sources["byt5_small"]

  def refused(*bindings, model="llama3_2_1b"):
    directory = tmp_path / "refused"
    status = cli.main(
      [
        "train",
        "--gin_file=gin/runs/quickstart.gin",
        f"--gin_file=gin/models/{model}.gin",
        f"--gin.MODEL_DIR='{directory}'",
        *(f"--gin.{binding}" for binding in bindings),
      ]
    )
    assert status == 2
    assert not list(pathlib.Path(directory).glob("checkpoints/*"))
    return capsys.readouterr().err

  error = refused(f"CHECKPOINT='{llama}'", "VOCABULARY=None")
  assert "has a vocabulary of 384" in error
  assert "set VOCABULARY" in error
  assert "no folder" in refused(f"CHECKPOINT='{tmp_path / 'none'}'")
  error = refused(f"CHECKPOINT='{byt5}'", f"VOCABULARY='{llama}/none'")
  assert "there is no file" in error
  for error_line in error.splitlines()[-1:]:
    assert error_line.startswith("t5x: error: ")
