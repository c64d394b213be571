"""Small checkpoint folders, each with a tokenizer of another family's kind."""

import atexit
import functools
import json
import pathlib
import random
import shutil
import string
import tempfile

import tokenizers
from tokenizers import decoders, models, normalizers, processors, trainers
from tokenizers import pre_tokenizers as splitters

from tests.tasks import pipeline

WORDS = ("Question", "Answer", "The answer is", "Let's think step by step.")
LETTERS = string.printable[:95] + "\n"


def make_lines():
  rng = random.Random(0)
  words = [*WORDS, *("".join(rng.choices("abcdefg", k=3)) for _ in range(50))]
  return [" ".join(rng.choices(words, k=8)) for _ in range(200)]


def byte_level(special, first=False, normalizer=None):
  """BPE on bytes, as GPT-2, Llama 3 and Qwen have it.

  Args:
    special: The special tokens.
    first: Whether they have the first ids, and not the last.
    normalizer: What a text goes through.
  """
  made = tokenizers.Tokenizer(models.BPE())
  made.pre_tokenizer = splitters.ByteLevel(add_prefix_space=False)
  made.decoder = decoders.ByteLevel()
  if normalizer is not None:
    made.normalizer = normalizer
  made.train_from_iterator(
    make_lines(),
    trainers.BpeTrainer(
      vocab_size=340,
      initial_alphabet=sorted(splitters.ByteLevel.alphabet()),
      special_tokens=special if first else [],
      show_progress=False,
    ),
  )
  made.add_special_tokens(list(special))
  return made


def byte_fallback(special):
  """BPE on letters with bytes for the rest, as Llama 2 and Gemma have it."""
  letters = [c.replace(" ", "\u2581") for c in LETTERS]
  tokens = [*special, *(f"<0x{n:02X}>" for n in range(256)), *letters]
  merges = [("t", "h"), ("\u2581", "a"), ("\u2581", "th"), ("Q", "u")]
  tokens += [a + b for a, b in merges]
  made = tokenizers.Tokenizer(
    models.BPE(
      vocab={token: number for number, token in enumerate(tokens)},
      merges=merges,
      byte_fallback=True,
      fuse_unk=True,
      unk_token="<unk>",
    )
  )
  made.add_special_tokens(list(special))
  return made


def gemma():
  made = byte_fallback(["<pad>", "<eos>", "<bos>", "<unk>"])
  made.normalizer = normalizers.Replace(" ", "\u2581")
  made.decoder = decoders.Sequence(
    [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
  )
  return made


def llama_2():
  made = byte_fallback(["<unk>", "<s>", "</s>", "<mask>"])
  made.normalizer = normalizers.Sequence(
    [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
  )
  made.decoder = decoders.Sequence(
    [
      decoders.Replace("\u2581", " "),
      decoders.ByteFallback(),
      decoders.Fuse(),
      decoders.Strip(" ", 1, 0),
    ]
  )
  return made


def t5(splitter=None):
  """Unigram with a space before each text."""
  made = tokenizers.Tokenizer(models.Unigram())
  made.pre_tokenizer = splitter or splitters.Metaspace()
  made.decoder = decoders.Metaspace()
  made.train_from_iterator(
    make_lines(),
    trainers.UnigramTrainer(
      vocab_size=200,
      initial_alphabet=[*LETTERS, "\u2581"],
      special_tokens=["<pad>", "</s>", "<unk>"],
      unk_token="<unk>",
      show_progress=False,
    ),
  )
  return made


def t5_of_words():
  """As T5's own file has it: splits at any white space, and so loses it."""
  return t5(
    splitters.Sequence([splitters.WhitespaceSplit(), splitters.Metaspace()])
  )


def template(made, before="", after=""):
  """Lets a tokenizer put special tokens around a text."""
  single = f"{before} $A {after}".strip()
  made.post_processor = processors.TemplateProcessing(
    single=single,
    special_tokens=[
      (token, made.token_to_id(token)) for token in (before, after) if token
    ],
  )
  return made


LLAMA_3 = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|more|>"]


def llama_3():
  return template(byte_level(LLAMA_3), "<|begin_of_text|>")


def qwen():
  made = byte_level(
    ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    normalizer=normalizers.NFC(),
  )
  made.add_tokens(["<think>", "</think>"])
  return made


def added(content):
  """A token in the longer form that older files have."""
  return {"__type": "AddedToken", "content": content, "special": True}


# name -> tokenizer, tokenizer_config.json, config.json, padding id.
MADE = {
  "llama_3": (
    llama_3,
    {"bos_token": LLAMA_3[0], "eos_token": LLAMA_3[1]},
    {"vocab_size": 384},
    "<|more|>",
  ),
  "qwen": (
    qwen,
    {
      "add_bos_token": False,
      "bos_token": None,
      "eos_token": "<|endoftext|>",
      "pad_token": "<|endoftext|>",
      "unk_token": None,
    },
    {"vocab_size": 400},
    "<|im_end|>",
  ),
  "bare": (
    lambda: byte_level(["<|endoftext|>"]),
    {
      "bos_token": "<|endoftext|>",
      "eos_token": added("<|endoftext|>"),
      "unk_token": "<|endoftext|>",
    },
    {"text_config": {"vocab_size": 384}},
    None,  # the first row without a token
  ),
  "neox": (
    lambda: byte_level(["<|endoftext|>", "<|padding|>"], first=True),
    {"eos_token": "<|endoftext|>"},
    {},
    "<|padding|>",
  ),
  "opt": (
    lambda: template(byte_level(["</s>", "<pad>"]), "</s>"),
    {"bos_token": "</s>", "eos_token": "</s>", "pad_token": "<pad>"},
    {},
    "<pad>",
  ),
  "gemma": (
    lambda: template(gemma(), "<bos>"),
    {
      "add_bos_token": True,
      "bos_token": "<bos>",
      "eos_token": "<eos>",
      "pad_token": "<pad>",
      "unk_token": "<unk>",
    },
    {"vocab_size": 400},
    "<pad>",
  ),
  "llama_2": (
    lambda: template(llama_2(), "<s>"),
    {
      "add_bos_token": True,
      "bos_token": added("<s>"),
      "eos_token": added("</s>"),
      "pad_token": None,
      "unk_token": added("<unk>"),
    },
    {"vocab_size": 400},
    "<mask>",
  ),
  "t5": (
    lambda: template(t5(), after="</s>"),
    {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"},
    {"vocab_size": 256},
    "<pad>",
  ),
}
HAS_BOS = {"llama_3", "opt", "gemma", "llama_2"}
PREPENDS = {"llama_2", "t5"}
LOSES_LETTERS = {"t5"}  # those that it has not seen
TAKES_FOR_SPACE = {"gemma", "llama_2", "t5", "pieces"}  # "\u2581"


def write(folder, tokenizer=None, **contents):
  """Writes a folder; `contents` are JSON files by their names."""
  folder.mkdir(parents=True, exist_ok=True)
  if tokenizer is not None:
    tokenizer.save(str(folder / "tokenizer.json"))
  for name, content in contents.items():
    (folder / f"{name}.json").write_text(json.dumps(content))
  return folder


@functools.cache
def folders() -> dict[str, pathlib.Path]:
  """One folder of each kind, and `pieces` with a SentencePiece model."""
  root = pathlib.Path(tempfile.mkdtemp(prefix="checkpoints-"))
  atexit.register(shutil.rmtree, root, ignore_errors=True)
  made = {}
  for name, (make, settings, config, _) in MADE.items():
    tokens = {k: v for k, v in settings.items() if k.endswith("_token") and v}
    made[name] = write(
      root / name,
      make(),
      tokenizer_config=settings,
      special_tokens_map={
        k: v for k, v in tokens.items() if not isinstance(v, bool)
      },
      **{"config": config} if config else {},
    )
  made["pieces"] = write(
    root / "pieces",
    tokenizer_config={"add_bos_token": True, "bos_token": "<s>"},
    config={"vocab_size": 512},
  )
  model = pipeline.train_sentencepiece(bos_id=3)
  (made["pieces"] / "spiece.model").write_bytes(model)
  return made
