"""Readers of arguments that several commands share."""

import argparse


def count(text: str) -> int:
  """Reads a whole number above 0."""
  if not text.isdecimal() or not int(text):
    raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
  return int(text)


def whole(text: str) -> int:
  """Reads a whole number from 0 on."""
  if not text.isdecimal():
    raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 on")
  return int(text)


def truth(text: str) -> bool:
  """Reads a boolean flag as absl does, because T5X's flags are absl's."""
  known = {"true": True, "t": True, "1": True}
  known |= {"false": False, "f": False, "0": False}
  if text.lower() not in known:
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
  return known[text.lower()]


def names(text: str) -> list[str]:
  """Splits a comma-separated list; empty names are dropped."""
  return [name.strip() for name in text.split(",") if name.strip()]
