"""Few-shot prompts of all tasks have the token ids of `transformers`."""

import atexit
import functools
import io
import pathlib
import shutil
import tempfile

import pytest
import sentencepiece
import tokenizers
import transformers
from tokenizers import decoders, models, trainers
from tokenizers import pre_tokenizers as splitters

from cot_latent.data.open import open_task
from cot_latent.data.prompts import Prompts
from cot_latent.data.source import Source
from cot_latent.models.hf import tokenizer as hf_tokenizer
from cot_latent.tasks import bbh, common
from cot_latent.tasks import vocabularies as seqio_vocabularies
from tests.models.hf import tokenizer_checkpoints as checkpoints
from tests.params import by_day

VOCABULARY_SIZE = 1500
TASKS = ["gsm8k_v1", *(f"bbh_{name}_v1" for name in bbh.TASKS)]
BOS, EOS, PAD, UNK = "<bos>", "<eos>", "<pad>", "<unk>"
TOKENS = {"bos_token": BOS, "eos_token": EOS, "pad_token": PAD}


def byte_level(folder, lines):
  """Byte-level BPE with the words of GPT-2 and SmolLM2, and BOS."""
  made = tokenizers.Tokenizer(models.BPE())
  made.pre_tokenizer = splitters.ByteLevel(add_prefix_space=False)
  made.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=VOCABULARY_SIZE,
    initial_alphabet=sorted(splitters.ByteLevel.alphabet()),
    special_tokens=[BOS, EOS, PAD],
    show_progress=False,
  )
  made.train_from_iterator(lines, trainer)
  checkpoints.write(
    folder, checkpoints.template(made, BOS), tokenizer_config=TOKENS
  )
  return transformers.AutoTokenizer.from_pretrained(folder)


def pieces(folder, lines):
  """A SentencePiece model with bytes for what it lacks, as in Gemma."""
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(" ".join(line.split("\n")) for line in lines),
    model_writer=model,
    model_type="bpe",
    vocab_size=VOCABULARY_SIZE,
    byte_fallback=True,
    normalization_rule_name="identity",
    remove_extra_whitespaces=False,
    add_dummy_prefix=False,
    max_sentence_length=1 << 20,
    minloglevel=2,
    num_threads=1,
    **{"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3},
    **{"pad_piece": PAD, "eos_piece": EOS, "bos_piece": BOS, "unk_piece": UNK},
  )
  checkpoints.write(
    folder, tokenizer_config=TOKENS | {"unk_token": UNK, "add_bos_token": True}
  )
  (folder / "tokenizer.model").write_bytes(model.getvalue())
  return transformers.GemmaTokenizer.from_pretrained(folder)


def pieces_as_json(folder, lines):
  """The same model, as `transformers` stores it."""
  theirs = pieces(folder, lines)
  theirs.save_pretrained(folder)
  assert (folder / "tokenizer.json").is_file()
  return theirs


KINDS = {f.__name__: f for f in (byte_level, pieces, pieces_as_json)}


@functools.cache
def tokenizer_of(kind, data_dir):
  """Fits a tokenizer to some of the data; its folder, and that of theirs."""
  folder = pathlib.Path(tempfile.mkdtemp(prefix="ids-"))
  atexit.register(shutil.rmtree, folder, ignore_errors=True)
  lines = [
    f"{line}\n\n"  # at an end GPT-2 takes them as one, and elsewhere not
    for path in sorted(pathlib.Path(data_dir, "bbh/cot-prompts").glob("*.txt"))
    for line in path.read_text(encoding="utf-8").split("\n\n")
  ]
  assert len(lines) > 100
  return str(folder), KINDS[kind](folder, lines)


def texts_of(prompts, name, rows, exemplars):
  """Whole prompts, as one text each."""
  prefix = prompts.prefix(name, exemplars)
  # The questions of web_of_lies begin with this word too.
  assert f"\n\n{prefix}".count("\n\nQuestion: ") == 3
  return [
    prefix + prompts.fill(name, {"question": question, "answer": answer})
    for question, answer in zip(rows.questions, rows.answers, strict=True)
  ]


def ids_of(theirs, texts):
  """BOS and the ids of each text."""
  whole = theirs(texts, add_special_tokens=False).input_ids
  return [[theirs.bos_token_id, *ids] for ids in whole]


def differing(rows, expected):
  return sum(a != b for a, b in zip(rows, expected, strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
  "task", by_day(TASKS, "bbh_boolean_expressions_v1", "bbh_dyck_languages_v1")
)
def test_ids_are_those_of_transformers(task, kind, data_dir):
  folder, theirs = tokenizer_of(kind, data_dir)
  assert theirs.is_fast
  prompts = Prompts(exemplars="train" if task == "gsm8k_v1" else "task")
  opened = open_task(
    Source(task, prompts=prompts, vocabulary=folder, data_dir=data_dir)
  )
  exemplars = common.read_exemplars(task, common.INFO[task], prompts, data_dir)
  # GSM8K's 7,473 training questions would take a minute.
  for split in ["test"] if task == "gsm8k_v1" else opened.splits:
    rows = opened.rows(split)
    for name, column in (("prior", rows.prompts), ("guide", rows.guides)):
      found = [
        hf_tokenizer.swap(ids.tolist(), opened.vocabulary.padding_id)
        for ids in column
      ]
      texts = texts_of(prompts, name, rows, exemplars)
      assert len(texts) == len(found) > 0
      assert differing(found, ids_of(theirs, texts)) == 0


def test_a_prefix_encoded_apart_is_found(data_dir):
  """As prompts were encoded at first: ids differ at the border."""
  folder, theirs = tokenizer_of("byte_level", data_dir)
  wrapped = seqio_vocabularies.load(folder).wrapped
  prompts = Prompts(exemplars="task")
  exemplars = [{"question": "1 + 1?", "answer": "2", "targets": "It is 2."}] * 3
  prefix = prompts.prefix("prior", exemplars)
  prompt = prompts.fill("prior", {"question": "2 + 2?"})
  expected = ids_of(theirs, [prefix + prompt])
  for parts, number in (([prefix, prompt], 1), ([prefix + prompt], 0)):
    ids = [token for part in parts for token in wrapped.encode(part)]
    own = hf_tokenizer.swap(ids, wrapped.padding_id)
    assert differing([[theirs.bos_token_id, *own]], expected) == number
