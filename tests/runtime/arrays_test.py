"""A file that claims more than it can hold is refused before it is read."""

import io
import re
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from cot_latent.runtime import arrays


def header(shape, dtype="<i4"):
  """The beginning of an .npy file."""
  stream = io.BytesIO()
  said = {"descr": dtype, "fortran_order": False, "shape": shape}
  np.lib.format.write_array_header_1_0(stream, said)
  return stream.getvalue()


def with_literal(text):
  """The beginning of an .npy file whose header is any literal."""
  length = struct.pack("<H", len(text))
  return b"\x93NUMPY\x01\x00" + length + text.encode()


def archive(content, times=1, method=zipfile.ZIP_STORED):
  """An archive with an array, or with an array several times."""
  stream = io.BytesIO()
  with zipfile.ZipFile(stream, "w", method) as opened:
    for number in range(times):
      opened.writestr(f"a{number}.npy", content)
  return stream.getvalue()


def claiming(content, size):
  """An archive whose directory claims another size of its only array."""
  place = content.rindex(b"PK\x01\x02") + 20
  sizes = struct.pack("<II", size, size)
  return content[:place] + sizes + content[place + 8 :]


ZEROS = header((2**24,), "|u1") + bytes(2**24)
CASES = {
  "a shape of terabytes": (
    archive(header((2**40,)) + b"1234"),
    "a0.npy claims to be int32 [1099511627776], which are 4,398,046,511,104 "
    "bytes, but has 4",
  ),
  "wide numbers": (archive(header((9,), "|V2000000000")), "18,000,000,000"),
  "fewer than there are": (archive(header((1,)) + b"12345678"), "but has 8"),
  "a negative number": (archive(header((-1, -1)) + b"1234"), "[-1, -1]"),
  "a directory that lies": (claiming(archive(b"x"), 2**31), "2,147,483,648"),
  "objects": (archive(header((1,), "|O") + b"12345678"), "to be object [1]"),
  "a deep header": (archive(with_literal("(" * 9000)), "multi-line"),
  "a long header": (archive(with_literal("-" * 9000 + "1")), "MemoryError"),
  "no array": (archive(b"text"), "magic string"),
  "no archive": (b"text", "File is not a zip file"),
}


def read(content, **settings):
  with arrays.open_archive(io.BytesIO(content), **settings) as stored:
    return dict(stored)


@pytest.mark.parametrize("is_compressed", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_what_claims_too_much_is_not_read(name, is_compressed):
  content, said = CASES[name]
  tracemalloc.start()
  with pytest.raises(arrays.ArraysError, match=re.escape(said)):
    read(content, is_compressed=is_compressed)
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert peak < 2**22


def test_compressed_arrays_are_read_up_to_a_limit(monkeypatch):
  bomb = archive(ZEROS, times=3, method=zipfile.ZIP_DEFLATED)
  assert len(bomb) < 2**16
  assert len(read(bomb, is_compressed=True)) == 3
  with pytest.raises(arrays.ArraysError, match="claims to hold 50,332,032"):
    read(bomb)  # nothing that is stored as it is takes less room
  monkeypatch.setattr(arrays, "_MOST_BYTES", 2**25)
  with pytest.raises(arrays.ArraysError, match="may hold 33,554,432"):
    read(bomb, is_compressed=True)


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_what_numpy_writes_is_read(write):
  said = {
    "none": np.zeros((0, 3)),
    "one": np.array(5),
    "turned": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "text": np.array("é"),
  }
  stream = io.BytesIO()
  write(stream, **said)
  is_compressed = write is np.savez_compressed
  found = read(stream.getvalue(), is_compressed=is_compressed)
  assert found.keys() == said.keys()
  for name, array in said.items():
    np.testing.assert_array_equal(found[name], array)
    assert found[name].dtype == array.dtype


def test_a_single_array_is_as_long_as_it_claims(tmp_path):
  path = tmp_path / "a.npy"
  for content, said in (
    (header((2**40,)) + b"1234", "4,398,046,511,104 bytes, but has 4"),
    (header((1,), "|O") + b"12345678", "to be object"),
    (b"text", "magic string"),
    (b"", "EOF"),
  ):
    path.write_bytes(content)
    with path.open("rb") as file, pytest.raises(ValueError, match=said):
      arrays.read_array(file)
  np.save(path, np.arange(3))
  with path.open("rb") as file:
    assert arrays.read_array(file).tolist() == [0, 1, 2]
