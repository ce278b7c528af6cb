"""Download the published points of Figure 4, verify them and convert them to a table of runs.

The final losses of Figure 4 of Hoffmann et al. (2022) were read from the vector figure by Besiroglu
et al. (2024, arXiv 2404.10102). Their repository states no licence, so this package contains
neither the points nor anything computed from them, only their URL and SHA-256.
"""

import csv
import hashlib
import http.client
import io
import urllib.request
from pathlib import Path

from chinchilla.core.errors import InputError
from chinchilla.core.files.reading import read_bytes
from chinchilla.core.files.writing import writable_dir, write_text
from chinchilla.core.paper import ISOFLOP_BUDGETS
from chinchilla.core.units import CONVENTIONS
from chinchilla.observations.columns import COLUMNS

URL = (
    "https://raw.githubusercontent.com/epoch-research/analyzing-chinchilla/"
    "92258837425e1b5f2851d624287f0120583a3d0e/data/svg_extracted_data.csv"
)
SHA256 = "193478df4e90f040016431996c45682659306840ecdadf83cfb9cd5ca0aa1b30"
CITATION = "Hoffmann et al. (2022), Figure 4, as read by Besiroglu et al. (2024), arXiv 2404.10102"
LICENCE = "the repository states no licence: use the file yourself, do not redistribute it."

MAX_BYTES = 10_000_000  # larger than the file
SAME_BUDGET = 0.1  # largest relative distance of a point's 6*N*D from its IsoFLOP budget
N_OUTLIERS = 5  # highest losses, excluded by Besiroglu et al.


def figure_4(text: str) -> str:
    """Convert the points of Figure 4 to a CSV of runs, with C = 6*N*D as in the figure.

    N, C and L have ten digits; D = C/(6N). budget_flops is the IsoFLOP budget within 10% of C, or
    empty. epoch_outlier marks the five highest losses.

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
        conventions = ("six_nd", "total", "train")
        writer.writerow((f"fig4_{i:03d}", budget, *numbers, L in highest, *conventions))
    return out.getvalue()


def fetch(out: Path, url: str = "", timeout_s: float = 30.0) -> None:
    """Download the points of Figure 4, verify their SHA-256, and write them as a CSV of runs.

    Args:
        out: the CSV to write; an existing file is never changed.
        url: URL of a copy; "" for the place of publication.
        timeout_s: longest wait for the server, seconds.

    Raises:
        InputError: no connection, another file than expected, or `out` cannot be written. No file
            is left behind.
    """
    if out.is_dir():
        raise InputError(f"out={out} is a folder. Give a file in it: out={out / 'points.csv'}.")
    where = url or URL
    advice = "Nothing was written. Try again, or give url= of a copy."
    try:
        with urllib.request.urlopen(where, timeout=timeout_s) as response:
            raw = response.read(MAX_BYTES)
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error  # of a URLError
        raise InputError(f"{where} cannot be downloaded ({reason}). {advice}") from None
    digest = hashlib.sha256(raw).hexdigest()
    if digest != SHA256:
        raise InputError(
            f"{where} has {len(raw):,} bytes with SHA-256 {digest[:12]}..., not the points of Figure 4 "
            f"({SHA256[:12]}...): it is truncated or another file. {advice}"
        )
    text = figure_4(raw.decode("utf-8"))
    writable_dir(out.parent, "out")
    if not out.exists():
        write_text(out, text)
    elif read_bytes(out) != text.encode("utf-8"):
        raise InputError(f"out={out} exists with other content. Choose another name.")
