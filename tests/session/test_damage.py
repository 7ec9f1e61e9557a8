"""Damaged and malicious sessions are refused with a reason and without harm."""

from __future__ import annotations

import json
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from napari_claps.errors import InputError
from napari_claps.session import is_session, read_session
from tests.session_examples import plain, same, saved


def rewritten(path: Path, change, *, method: int = zipfile.ZIP_DEFLATED) -> Path:
    """Pass the members of a session through `change`, a function of {name: bytes}."""
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in change(members).items():
            file.writestr(name, content)
    return path


def with_document(path: Path, change) -> Path:
    def apply(members):
        document = json.loads(members["session.json"])
        change(document)
        return members | {"session.json": json.dumps(document).encode()}

    return rewritten(path, apply)


def refused(path: Path, pattern: str) -> None:
    with pytest.raises(InputError, match=pattern) as caught:
        read_session(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("name", ["../evil.npy", "/etc/cron.d/x", "..\\evil", "arrays/../../x.npy", "C:\\x",
                                  "arrays/00.npy", "arrays/1.npy.exe", "session.json/", "arrays/x.npy"])
def test_foreign_members_are_refused(tmp_path, name):
    refused(rewritten(saved(tmp_path), lambda members: members | {name: b"x"}), "holds a member named .*no session has")


def test_zip_bomb_is_refused_before_memory_is_taken(tmp_path):
    path = tmp_path / "bomb.claps.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("session.json", b"{}")
        for number in range(20):
            with file.open(f"arrays/{number}.npy", "w") as member:
                for _ in range(4):
                    member.write(bytes(2**20))
    tracemalloc.start()
    with pytest.raises(InputError, match=r"bomb\.claps\.zip: would inflate to 0\.08 GiB; the limit is 0\.06 GiB"):
        read_session(path, max_bytes=2**26)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_json_bomb_is_refused(tmp_path):
    blanks = b" " * (16 * 2**20 + 1)
    refused(rewritten(saved(tmp_path), lambda m: m | {"session.json": blanks}), "session.json declares")
    refused(rewritten(saved(tmp_path), lambda m: m | {"session.json": b"[" * 100_000}), "cannot be read as a session")
    refused(rewritten(saved(tmp_path), lambda m: m | {"session.json": b"[]"}), "no JSON object")


def test_one_array_cannot_be_used_a_thousand_times(tmp_path):
    def change(document):
        document["layers"] += [document["layers"][1]] * 1000

    refused(with_document(saved(tmp_path), change), "arrays/.*missing")


@pytest.mark.parametrize("size", [10**6, 2**31, 10])
def test_false_declared_size(tmp_path, size):
    """The size in the directory is a lie: larger than what deflate can hold, or smaller than what is there."""
    path = saved(tmp_path)
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as file:
        info = file.getinfo("arrays/5.npy")
    entry = content.rindex(b"arrays/5.npy") - 46
    assert content[entry : entry + 4] == b"PK\1\2"
    assert struct.unpack_from("<I", content, entry + 24)[0] == info.file_size
    struct.pack_into("<I", content, entry + 24, size)
    path.write_bytes(content)
    refused(path, "cannot be in|declares the shape|cannot be read")


def test_array_header_that_claims_too_much(tmp_path):
    def npy(header: str, body: bytes = b"") -> bytes:
        return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header.encode() + body

    for header, reason in {
        "{'descr': '<u2', 'fortran_order': False, 'shape': (1000000, 1000000)}": "declares the shape",
        "{'descr': '|O', 'fortran_order': False, 'shape': (1,)}": "holds object, not numbers",
        "{'descr': '<u2', 'fortran_order': False, 'shape': (-1, -2)}": "has the shape",
        "__import__('os').system('true')": "cannot be read",
    }.items():
        refused(rewritten(saved(tmp_path), lambda m, h=header: {k: npy(h) if k.endswith("0.npy") else v
                                                                 for k, v in m.items()}), reason)


def test_too_many_members_and_a_huge_directory(tmp_path):
    path = tmp_path / "many.claps.zip"
    with zipfile.ZipFile(path, "w") as file:
        for number in range(1001):
            file.writestr(f"arrays/{number}.npy", b"")
    refused(path, "has 1001 members; a session has at most 1000")
    with zipfile.ZipFile(path, "w") as file:
        for number in range(20_000):
            file.writestr(f"arrays/{number}.npy", b"")
    refused(path, "a directory of [0-9]+ bytes")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_duplicates_other_methods_and_encryption(tmp_path):
    path = saved(tmp_path)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("session.json", b"{}")
    refused(path, "twice a member named 'session.json'")
    refused(rewritten(saved(tmp_path), dict, method=zipfile.ZIP_LZMA), "compressed in a way that no session is")
    path = saved(tmp_path)
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(content)
    refused(path, "is encrypted")


def test_damage_anywhere_is_an_input_error_or_harmless(tmp_path):
    path = saved(tmp_path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for cut in rng.integers(0, len(whole), 40):
        path.write_bytes(whole[:cut])
        refused(path, "cannot be read as a session|no such")
    expected = read_session(saved(tmp_path))
    for bit in rng.integers(0, len(whole) * 8, 300):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            found = read_session(path)
        except InputError as error:
            assert str(path) in str(error)
        else:
            assert same(found, expected)  # the checksums cover every byte that counts


@settings(deadline=None, max_examples=150,
          suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.data())
def test_any_value_in_the_document_is_an_input_error_or_harmless(tmp_path, data):
    """Somebody edits the JSON: any value anywhere may be of any type."""

    def change(document):
        place = document
        while True:
            keys = list(place) if isinstance(place, dict) else range(len(place))
            key = data.draw(st.sampled_from(keys))
            if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.integers(0, 3)) == 0:
                break
            place = place[key]
        place[key] = data.draw(plain | st.sampled_from([-1, 10**400, "../x", [[]], {"a": 1}]))

    path = with_document(saved(tmp_path), change)
    try:
        read_session(path)
    except InputError as error:
        assert str(path) in str(error)


def test_other_files_and_newer_versions(tmp_path):
    refused(tmp_path / "missing.claps.zip", "there is no such file")
    (tmp_path / "empty.claps.zip").write_bytes(b"")
    refused(tmp_path / "empty.claps.zip", "cannot be read as a session")
    refused(rewritten(saved(tmp_path), lambda m: {"arrays/0.npy": m["arrays/0.npy"]}), "has no session.json")
    refused(with_document(saved(tmp_path), lambda d: d.update(version=2)), "version 2; .* Update napari-claps")
    refused(with_document(saved(tmp_path), lambda d: d.update(format="x")), "not that of a session")
    refused(with_document(saved(tmp_path), lambda d: d.pop("layers")), "'layers' is missing")
    refused(with_document(saved(tmp_path), lambda d: d["settings"].update(device=4)), "device = 4 has the wrong type")
    (tmp_path / "other.zip").write_bytes(saved(tmp_path).read_bytes())
    assert not is_session(tmp_path / "other.zip") and not is_session(tmp_path / "missing.claps.zip")
    assert not is_session(tmp_path)
