"""Public measurements that may not be shipped: downloaded by their user, checked, converted.

The final losses of Figure 4 of Hoffmann et al. (2022) were read from the vector figure by Besiroglu
et al. (2024, arXiv 2404.10102). Their repository states no licence, so this package holds neither the
points nor anything computed from them: it knows where they lie and the SHA-256 of the file. Floor 0.
"""

import csv
import hashlib
import http.client
import io
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from chinchilla.core.errors import InputError
from chinchilla.core.files import writable_dir, write_text
from chinchilla.core.paper import ISOFLOP_BUDGETS
from chinchilla.observations.read_table import COLUMNS, CONVENTIONS

MAX_BYTES = 10_000_000  # more than any file here: a page of another kind is not read to its end
SAME_BUDGET = 0.1  # a point belongs to an isoFLOP budget when its 6*N*D lies within this share
N_OUTLIERS = 5  # the highest losses, which Besiroglu et al. leave out of their fits


@dataclass(frozen=True)
class Source:
    """A file of other people, and how it becomes a table of runs."""

    url: str
    sha256: str  # of the file as it lies there
    convert: Callable[[str], str]  # its text -> our CSV
    citation: str
    licence: str


def figure_4(text: str) -> str:
    """The points of Figure 4 as a table of runs; C = 6*N*D, as the figure plots it.

    N, C and L are the figure's, to ten digits; D = C/(6N). budget_flops is the isoFLOP budget within
    a tenth of C, else empty. epoch_outlier marks the five highest losses.

    Args:
        text: CSV with the columns Model Size (parameters), Training FLOP, loss (nats per token).
    """
    points = [
        (float(row["Model Size"]), float(row["Training FLOP"]), float(row["loss"]))
        for row in csv.DictReader(io.StringIO(text))
    ]
    highest = sorted((L for _, _, L in points), reverse=True)[:N_OUTLIERS]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow((*COLUMNS, "epoch_outlier", *CONVENTIONS))
    for i, (N, C, L) in enumerate(points):
        nearest = min(ISOFLOP_BUDGETS, key=lambda budget: abs(C / budget - 1))
        budget = f"{nearest:g}" if abs(C / nearest - 1) <= SAME_BUDGET else ""
        numbers = (f"{x:.10g}" for x in (C, N, C / (6 * N), L))
        said = ("six_nd", "total", "train")
        writer.writerow((f"fig4_{i:03d}", budget, *numbers, L in highest, *said))
    return out.getvalue()


SOURCES = {
    "hoffmann": Source(
        url="https://raw.githubusercontent.com/epoch-research/analyzing-chinchilla/"
        "92258837425e1b5f2851d624287f0120583a3d0e/data/svg_extracted_data.csv",
        sha256="193478df4e90f040016431996c45682659306840ecdadf83cfb9cd5ca0aa1b30",
        convert=figure_4,
        citation="Hoffmann et al. (2022), Figure 4, as read by Besiroglu et al. (2024), "
        "arXiv 2404.10102",
        licence="its repository states no licence: for your own use, do not redistribute the file or "
        "its copy.",
    ),
}


def fetch(points: str, out: Path, url: str = "", timeout_s: float = 30.0) -> Source:
    """Download a published table, check that it is that table, and write it as a CSV of runs.

    Args:
        points: a key of SOURCES.
        out: the CSV to write; one that is there already may only be the same.
        url: another place of the same file; "" = the source's own.
        timeout_s: seconds that the download may take in all.

    Raises:
        InputError: no connection, another file than expected, or `out` cannot be written. Nothing
            is left behind.
    """
    source = SOURCES[points]
    if out.is_dir():
        raise InputError(f"out={out} is a folder. Name a file in it: out={out / points}.csv.")
    where = url or source.url
    raw = _download(where, timeout_s)
    digest = hashlib.sha256(raw).hexdigest()
    if digest != source.sha256:
        raise InputError(
            f"{where} gave {len(raw):,} bytes with SHA-256 {digest[:12]}..., not the points of "
            f"{points} ({source.sha256[:12]}...): the file is cut short or another one. Nothing was "
            "written."
        )
    text = source.convert(raw.decode("utf-8"))
    writable_dir(out.parent, "out")
    if not out.exists():
        write_text(out, text)
    elif out.read_bytes() != text.encode("utf-8"):
        raise InputError(f"out={out} exists and holds something else. Choose another name.")
    return source


def _download(url: str, timeout_s: float) -> bytes:
    """The bytes at a URL, within the time given."""
    cure = "Nothing was written. Try again, or give url= of a copy."
    deadline = time.monotonic() + timeout_s
    raw = bytearray()
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as response:
            expected = response.headers.get("Content-Length", "")
            while len(raw) <= MAX_BYTES and (block := response.read1(65_536)):
                raw += block
                if time.monotonic() > deadline:
                    raise TimeoutError
    except TimeoutError:
        raise InputError(f"{url} did not arrive within {timeout_s:g} s. {cure}") from None
    except urllib.error.HTTPError as error:
        raise InputError(f"{url}: HTTP {error.code} {error.reason}. {cure}") from None
    except urllib.error.URLError as error:
        reason = error.reason
        if isinstance(reason, TimeoutError):
            raise InputError(f"{url} did not arrive within {timeout_s:g} s. {cure}") from None
        why = getattr(reason, "strerror", None) or reason
        raise InputError(f"{url} cannot be reached ({why}). {cure}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise InputError(f"{url} cannot be read ({error}). {cure}") from None
    if len(raw) > MAX_BYTES:
        raise InputError(f"{url} holds more than {MAX_BYTES:,} bytes: another file. {cure}")
    if expected.isdigit() and len(raw) < int(expected):
        raise InputError(f"{url} ended after {len(raw):,} of {int(expected):,} bytes. {cure}")
    return bytes(raw)
