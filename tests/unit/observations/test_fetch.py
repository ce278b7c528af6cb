"""Downloads: the expected file becomes a table of runs; any other is one line and no file."""

import contextlib
import csv
import hashlib
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from public_data import public

from chinchilla import cli
from chinchilla.observations import fetch
from chinchilla.observations.table import Observations

RAW = (
    "x,y,color,Model Size,Training FLOP,hex_color,loss\n"
    "1,2,#fff,100000000.5,6.1e+18,#fff,3.25\n"
    "1,3,#ffe,2e8,2.4e18,#ffe,3.05\n"
    "1,4,#ffd,3e8,9.3e18,#ffd,2.95\n"
)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = RAW.encode()
        if self.path == "/missing":
            return self.send_error(404)
        if self.path == "/slow":
            time.sleep(1)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.replace(b"3.25", b"3.26") if self.path == "/other" else body)
        return None

    def handle(self):
        with contextlib.suppress(OSError):  # the client closed the connection
            super().handle()

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def server():
    """URL of a local server."""
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture
def get(server, tmp_path, monkeypatch, capsys):
    """get(url) -> exit code, stdout, stderr of a download into an empty folder."""
    digest = hashlib.sha256(RAW.encode()).hexdigest()
    monkeypatch.setattr(fetch, "SHA256", digest)
    monkeypatch.setattr(fetch, "URL", f"{server}/good")
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.chdir(tmp_path)

    def run(url="", *words):
        url = url if "://" in url or not url else f"{server}/{url}"
        capsys.readouterr()
        out = () if any(word.startswith("out=") for word in words) else ("out=points.csv",)
        code = cli.main(
            ["fetch", "points=hoffmann", *out, *([f"url={url}"] if url else []), *words]
        )
        return code, *capsys.readouterr()

    return run


def test_the_points_are_converted_to_a_table_of_runs(get, tmp_path):
    code, out, err = get()
    assert (code, err) == (0, "")
    assert "states no licence" in out
    assert "do not redistribute" in out
    assert "arXiv 2404.10102" in out
    obs = Observations.from_csv(tmp_path / "points.csv")
    assert obs.N.tolist() == [100000000.5, 2e8, 3e8]
    assert obs.D == pytest.approx(obs.C / (6 * obs.N), rel=1e-9)
    assert obs.budget_flops.tolist()[::2] == [6e18, 1e19]  # 6.1e18 and 9.3e18, within a tenth
    assert not obs.budget_flops[1] > 0  # 2.4e18 belongs to no budget
    assert (obs.flop_convention, obs.n_convention, obs.loss_kind) == ("six_nd", "total", "train")


@pytest.mark.parametrize(
    ("url", "words", "parts"),
    [
        ("missing", (), ["/missing cannot be downloaded (Not Found)", "url= of a copy"]),
        ("other", (), ["SHA-256", "not the points of Figure 4", "Nothing was written"]),
        ("slow", ("timeout_s=0.2",), ["/slow cannot be downloaded (timed out)"]),
        ("nowhere://x", (), ["nowhere://x cannot be downloaded (unknown url type: nowhere)"]),
        ("http://127.0.0.1:1/x", ("timeout_s=0",), ["timeout_s=0.0 must be above 0"]),
    ],
)
def test_a_failed_download_is_one_line_and_leaves_no_file(get, tmp_path, url, words, parts):
    code, _, err = get(url, *words)
    assert code == 2
    assert err.count("\n") == 1
    for part in parts:
        assert part in err
    assert list(tmp_path.iterdir()) == []


def test_no_connection_is_one_line(get, tmp_path):
    with socket.socket() as s:  # a port without a listener
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    code, _, err = get(f"http://127.0.0.1:{port}/x")
    assert code == 2
    assert "Connection refused" in err
    assert "url= of a copy" in err
    assert list(tmp_path.iterdir()) == []


def test_a_large_file_is_not_read_completely(get, monkeypatch):
    monkeypatch.setattr(fetch, "MAX_BYTES", 100)
    code, _, err = get()
    assert code == 2
    assert "has 100 bytes with SHA-256" in err


def test_an_existing_file_is_kept(get, tmp_path):
    (tmp_path / "points.csv").write_text("mine\n")
    code, _, err = get()
    assert code == 2
    assert "points.csv exists with other content" in err
    assert (tmp_path / "points.csv").read_text() == "mine\n"
    (tmp_path / "points.csv").unlink()
    assert get()[0] == 0
    first = (tmp_path / "points.csv").stat()
    assert get()[0] == 0  # an identical file is accepted and not rewritten
    assert (tmp_path / "points.csv").stat().st_mtime_ns == first.st_mtime_ns


def test_an_unwritable_path_is_refused(get, tmp_path):
    (tmp_path / "file").write_text("")
    assert "is a folder. Give a file in it" in get("", f"out={tmp_path}")[2]
    assert "not a writable folder" in get("", "out=file/points.csv")[2]


def test_the_conversion_agrees_with_the_published_points():
    path = public("hoffmann_fig4.csv")
    with open(path, newline="") as f:
        published = list(csv.DictReader(f))
    raw = "Model Size,Training FLOP,loss\n"
    raw += "".join(f"{row['N']},{row['C']},{row['L']}\n" for row in published)
    ours = list(csv.DictReader(fetch.figure_4(raw).splitlines()))
    assert len(ours) == len(published) == 245
    for row, expected in zip(ours, published, strict=True):
        for column in ("run_id", "budget_flops", "C", "N", "L", "epoch_outlier"):
            assert row[column] == expected[column]
        assert float(row["D"]) == pytest.approx(float(expected["D"]), rel=2e-9)
    assert sum(bool(row["budget_flops"]) for row in ours) == 129
