"""Downloads against a server on this machine: progress, resuming, verification, and what can go wrong."""

from __future__ import annotations

import errno
import hashlib
import shutil
import threading
from collections import namedtuple
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from napari_claps.errors import BundleError, OutputError
from napari_claps.models.bundles import download as module
from napari_claps.models.bundles.download import check_file, download, get_checkpoint
from napari_claps.models.bundles.registry import CHECKPOINTS, Checkpoint, RemoteFile

CONTENT = bytes(range(256)) * 20_000  # 5 MB


class Server(ThreadingHTTPServer):
    """Serves `CONTENT` at every path; the attributes say how badly."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.ranges = True
        self.cut_after: list[int] = []
        self.status = 200
        self.content = CONTENT
        self.asked: list[tuple[str, str]] = []

    def url(self, name: str = "weights.pth") -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range", "")
        self.server.asked.append((self.path, wanted))
        if self.server.status != 200:
            self.send_error(self.server.status)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.server.ranges else 0
        content = self.server.content
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        body = content[start:]
        self.wfile.write(body[:self.server.cut_after.pop(0)] if self.server.cut_after else body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture()
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def remote(server: Server, **facts: object) -> RemoteFile:
    known = {"size": len(CONTENT), "sha256": hashlib.sha256(CONTENT).hexdigest(), **facts}
    return RemoteFile(server.url(), "weights.pth", **known)  # type: ignore[arg-type]


def test_whole_file_with_progress(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int | None]] = []
    target = tmp_path / "new folder" / "weights.pth"
    download(remote(server), target, progress=lambda *step: seen.append(step))
    assert target.read_bytes() == CONTENT and [p.name for p in target.parent.iterdir()] == ["weights.pth"]
    assert seen[-1] == ("weights.pth", len(CONTENT), len(CONTENT))
    assert [s[1] for s in seen] == sorted({s[1] for s in seen}) and len(seen) > 1
    download(remote(server), target)
    assert len(server.asked) == 1  # a good file is not fetched again


def test_broken_connections_are_continued(server: Server, tmp_path: Path) -> None:
    server.cut_after = [2_000_000, 1_500_000]
    target = tmp_path / "weights.pth"
    download(remote(server), target, pause=0.0)
    assert target.read_bytes() == CONTENT
    starts = [int(wanted.removeprefix("bytes=").rstrip("-") or 0) for _, wanted in server.asked]
    assert len(starts) == 3 and 0 == starts[0] < starts[1] <= 2_000_000 < starts[2]


def test_second_command_goes_on_where_the_first_ended(server: Server, tmp_path: Path,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ATTEMPTS", 1)
    server.cut_after = [3_000_000]
    target = tmp_path / "weights.pth"
    with pytest.raises(BundleError, match="connection failed.*kept.*HTTPS_PROXY"):
        download(remote(server), target)
    part = tmp_path / "weights.pth.part"
    assert not target.exists() and 0 < part.stat().st_size <= 3_000_000
    download(remote(server), target)
    assert target.read_bytes() == CONTENT and not part.exists() and server.asked[-1][1].startswith("bytes=")


def test_server_without_ranges_begins_again(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    (tmp_path / "weights.pth.part").write_bytes(b"x" * 1000)
    download(remote(server), tmp_path / "weights.pth")
    assert (tmp_path / "weights.pth").read_bytes() == CONTENT


@pytest.mark.parametrize("left", [CONTENT, CONTENT + b"too long"])
def test_part_that_is_complete_or_too_long(server: Server, tmp_path: Path, left: bytes) -> None:
    (tmp_path / "weights.pth.part").write_bytes(left)
    download(remote(server), tmp_path / "weights.pth", pause=0.0)
    assert (tmp_path / "weights.pth").read_bytes() == CONTENT


@pytest.mark.parametrize(("facts", "message"), [
    ({"sha256": "0" * 64}, "its sha256 is [0-9a-f]{64}, not 0{64}.*damaged or was replaced"),
    ({"sha256": None, "md5_prefix": "012345"}, "its MD5 is [0-9a-f]{6}, not 012345"),
    ({"size": 17}, "has 5,120,000 bytes instead of 17"),
])
def test_wrong_content_is_not_kept(server: Server, tmp_path: Path, facts: dict, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        download(remote(server, **facts), tmp_path / "weights.pth")
    assert list(tmp_path.iterdir()) == []


def test_what_was_compared_is_told(server: Server, tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(CONTENT)
    md5 = hashlib.md5(CONTENT).hexdigest()[:6]
    assert check_file(remote(server), tmp_path / "weights.pth") == "sha256"
    assert md5 in check_file(remote(server, sha256=None, md5_prefix=md5), tmp_path / "weights.pth")
    assert check_file(remote(server, sha256=None), tmp_path / "weights.pth") == "size"
    assert "nothing" in check_file(remote(server, sha256=None, size=None), tmp_path / "weights.pth")


def test_missing_file_names_address_and_way_out(server: Server, tmp_path: Path) -> None:
    server.status = 404
    with pytest.raises(BundleError, match=r"weights\.pth: 127\.0\.0\.1 answers 404 .*claps models import"):
        download(remote(server), tmp_path / "weights.pth")
    assert len(server.asked) == 1 and not (tmp_path / "weights.pth").exists()


def test_unreachable_server_is_tried_and_given_up(tmp_path: Path, server: Server) -> None:
    server.status = 503
    with pytest.raises(BundleError, match="connection failed"):
        download(remote(server), tmp_path / "weights.pth", pause=0.0)
    assert len(server.asked) == module.ATTEMPTS


def test_too_little_room_is_said_before_the_first_byte(server: Server, tmp_path: Path,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 10**6, 10**6))
    with pytest.raises(OutputError, match="5 MB are to come, but only 1 MB are free.*CLAPS_MODELS"):
        download(remote(server), tmp_path / "weights.pth")


def test_full_disk_keeps_what_has_arrived(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.open

    class Full:
        def __init__(self, path: Path, mode: str) -> None:
            self.file = real(path, mode)

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, data: bytes) -> None:
            if self.file.tell():
                raise OSError(errno.ENOSPC, "No space left on device")
            self.file.write(data)

    monkeypatch.setattr(Path, "open", lambda self, mode="r", *a, **k: Full(self, mode) if self.suffix == ".part"
                        and mode in ("ab", "wb") else real(self, mode, *a, **k))
    with pytest.raises(OutputError, match="the disk is full.*kept"):
        download(remote(server), tmp_path / "weights.pth")
    assert (tmp_path / "weights.pth.part").stat().st_size > 0
    monkeypatch.undo()
    download(remote(server), tmp_path / "weights.pth")
    assert (tmp_path / "weights.pth").read_bytes() == CONTENT


def test_proxy_of_the_environment_is_used(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.url(""))
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    file = RemoteFile("http://weights.invalid/a.pth", "a.pth", len(CONTENT))
    download(file, tmp_path / "a.pth")
    assert server.asked == [("http://weights.invalid/a.pth", "")]


def test_checkpoint_of_several_files_is_a_folder(server: Server, tmp_path: Path) -> None:
    files = tuple(RemoteFile(server.url(n), n, len(CONTENT)) for n in ("config.json", "vocab.txt"))
    checkpoint = Checkpoint("bert", "BERT", "text encoder", "Apache-2.0", "", files)
    path = get_checkpoint(checkpoint, tmp_path)
    assert path == tmp_path / "downloads" / "bert" and checkpoint.is_here(tmp_path)
    assert sorted(p.name for p in path.iterdir()) == ["config.json", "vocab.txt"]
    assert checkpoint.size == 2 * len(CONTENT)


def test_registry_is_sound() -> None:
    for name, checkpoint in CHECKPOINTS.items():
        assert name == checkpoint.name and checkpoint.files and checkpoint.licence and checkpoint.page
        for file in checkpoint.files:
            assert file.url.startswith("https://")
            assert file.sha256 is None or (len(file.sha256) == 64 and int(file.sha256, 16) >= 0)
            assert file.size is None or file.size > 0
    sam = [CHECKPOINTS[f"sam-vit-{size}"].files[0] for size in "blh"]
    assert all(f.md5_prefix and f.name.endswith(f"_{f.md5_prefix}.pth") for f in sam)
    names = [p for c in CHECKPOINTS.values() for p in c.paths(Path("x"))]
    assert len(set(names)) == len(names)
