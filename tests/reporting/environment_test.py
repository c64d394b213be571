"""What is said of the code: its changes, and where it comes from."""

import subprocess

import pytest

from cot_latent.reporting import environment


@pytest.mark.parametrize(
  ("remote", "address"),
  [
    ("https://github.com/a/b.git", "https://github.com/a/b.git"),
    ("https://me:secret@github.com/a/b", "https://github.com/a/b"),
    ("ssh://git@host:22/a/b", "ssh://host:22/a/b"),
    ("git@github.com:a/b.git", "git@github.com:a/b.git"),
    ("/home/me/b", None),
    ("../b", None),
    ("file:///home/me/b", None),
    (None, None),
  ],
)
def test_an_address_has_no_secret_and_no_path(remote, address):
  assert environment._public_address(remote) == address


def test_where_compiled_functions_are_kept_is_not_told(monkeypatch):
  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/home/me/cache")
  monkeypatch.setenv("JAX_ENABLE_X64", "0")
  monkeypatch.setenv("PYTHONHASHSEED", "3")
  variables = environment.describe([], {})["variables"]
  assert variables["JAX_ENABLE_X64"] == "0"
  assert variables["PYTHONHASHSEED"] == "3"
  assert "JAX_COMPILATION_CACHE_DIR" not in variables


@pytest.fixture
def checkout(tmp_path, monkeypatch):
  """A repository with a package and other things."""
  for name in ("cot_latent/__init__.py", "notes.txt"):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("one\n")
  identity = ("-c", "user.name=x", "-c", "user.email=x")
  for command in (
    ("init", "--quiet"),
    ("add", "."),
    (*identity, "commit", "--quiet", "--message=x"),
    ("remote", "add", "origin", "https://me:secret@example.org/b"),
  ):
    subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
  package = str(tmp_path / "cot_latent/__init__.py")
  monkeypatch.setattr(environment.cot_latent, "__file__", package)
  return tmp_path


@pytest.mark.parametrize(
  ("name", "is_modified", "in_diff"),
  [
    (None, False, False),
    ("notes.txt", False, False),
    ("cot_latent/__init__.py", True, True),
    ("cot_latent/new.py", True, False),  # its hash tells, if it is used
  ],
)
def test_changes_of_the_package_count(checkout, name, is_modified, in_diff):
  if name:
    (checkout / name).write_text("two\n")
  code, diff = environment.code()
  assert code["is_modified"] == is_modified
  assert ("+two" in diff) == in_diff
  assert code["repository"] == "https://example.org/b"
  assert len(code["revision"]) == 40


def test_draws_are_of_the_whole_package_and_not_of_what_was_imported(checkout):
  code = {"files": {"cot_latent.cli": "a", "mine": "b"}, "packages": {"c": "1"}}
  found = environment.drawing_code(code)
  assert found["files"] == {"mine": "b"}
  assert found["packages"] == {"c": "1"}
  other = code | {"files": {"cot_latent.em": "c", "mine": "b"}, "revision": "d"}
  assert environment.drawing_code(other) == found
  (checkout / "cot_latent/new.py").write_text("two\n")
  changed = environment.drawing_code(code)
  assert changed != found
  assert changed | {"package_sha256": found["package_sha256"]} == found


def test_a_wheel_is_named_by_its_files(tmp_path, monkeypatch):
  package = str(tmp_path / "site-packages/cot_latent/__init__.py")
  monkeypatch.setattr(environment.cot_latent, "__file__", package)
  code, _ = environment.code()
  assert code["revision"] is None
  name = environment.code_name(code)
  assert name.startswith("files sha256 ")
  first = sorted(code["files"])[0]
  other = code | {"files": code["files"] | {first: "0" * 64}}
  assert environment.code_name(other) != name
  assert environment.code_name(code | {"revision": "ab"}) == "ab"
