"""--sites-file: which hospital each case is of, and what is said of a file with mistakes."""

import unicodedata
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulation.errors import SplitError
from simulation.folds import FOLDS, choose_fold, refuse_needless_folds
from simulation.layouts import CohortFiles, StudyCase
from simulation.sites_file import assigned_cases, assignment_digest

HERE = Path("x.nii.gz")


def folder(*labelled: str, pool: tuple[str, ...] = ()) -> CohortFiles:
    return CohortFiles(
        images=dict.fromkeys(labelled, HERE),
        labels=dict.fromkeys(labelled, HERE),
        pool=dict.fromkeys(pool, HERE),
        withheld=dict.fromkeys(pool[:1], HERE),
    )


def read(tmp_path: Path, text: str | bytes, files: CohortFiles) -> list[StudyCase]:
    path = tmp_path / "cases.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return assigned_cases(path, files)


def mistakes(tmp_path: Path, text: str | bytes, files: CohortFiles) -> list[str]:
    with pytest.raises(SplitError) as caught:
        read(tmp_path, text, files)
    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"{tmp_path / 'cases.csv'}: ") for line in lines)
    return [line.removeprefix(f"{tmp_path / 'cases.csv'}: ") for line in lines]


def test_sites_splits_and_groups(tmp_path: Path) -> None:
    text = (
        "case,site,split,group\na,Leiden,train,p1\nb,Leiden,,\nc,Oslo_2,test,\nd,Oslo_2,unlabelled,"
        "\ne,Oslo_2,validation,\nu,Leiden,,p1\nv,Leiden,unlabelled,\n"
    )
    cases = {c.name: c for c in read(tmp_path, text, folder(*"abcde", pool=("u", "v")))}
    assert {n: (c.site, c.part, c.fixed) for n, c in cases.items()} == {
        "a": ("Leiden", "labelled", True),
        "b": ("Leiden", "labelled", False),
        "c": ("Oslo_2", "test", True),
        "d": ("Oslo_2", "unlabelled", True),
        "e": ("Oslo_2", "validation", True),
        "u": ("Leiden", "unlabelled", False),
        "v": ("Leiden", "unlabelled", False),
    }
    # A withheld label is known to the simulation alone.
    assert (cases["d"].label, cases["d"].reference) == (None, HERE)
    assert (cases["u"].reference, cases["v"].reference) == (HERE, None)
    parts = {c.name: c.part for c in choose_fold(list(cases.values()), 3, 1)}
    assert {n: parts[n] for n in "acdeuv"} == {
        n: cases[n].part for n in "acdeuv"
    }  # only b is the folds'


@pytest.mark.parametrize(
    "text",
    [
        b"\xef\xbb\xbfcase,site\r\na,A\r\nb,B\r\n",
        b'"case","site","split"\n"a","A",""\n"b","B",""\n',
        b"Site , Case\nA, a\nB,b \n,\n\n",
        b"case,site\na_0000,A\nb_0000,B",
        b"case,site\ra,A\rb,B\r",
    ],
)
def test_as_spreadsheets_write_it(tmp_path: Path, text: bytes) -> None:
    cases = read(tmp_path, text, folder("a", "b"))
    assert [(c.name, c.site, c.fixed) for c in cases] == [("a", "A", False), ("b", "B", False)]


def test_umlauts_in_either_form(tmp_path: Path) -> None:
    name = "Müller_1"
    for written in ("NFC", "NFD"):
        for there in ("NFC", "NFD"):
            text = unicodedata.normalize(written, f"case,site\n{name},A\nb,B\n")
            files = folder(unicodedata.normalize(there, name), "b")
            assert {c.name for c in read(tmp_path, text, files)} == set(files.images)


def test_every_mistake_is_told_with_its_line(tmp_path: Path) -> None:
    text = (
        "case,site,split,group\n"
        "a,A,train,p\n"
        "nobody,A,,\n"
        "a,A,,\n"
        "b,../B,,\n"
        "c,,tset,\n"
        "d,C,,p\n"
        "e,A,,p\n"
        "u,A,test,\n"
        "f.nii.gz,A,,\n"
        "g,A\n"
        "t,OnlyTest,test,\n"
        "h,all,,\n"
        "i,c,,\n"
        ",A,,\n"
    )
    files = folder(*"abcdefghit", pool=("u",))
    assert mistakes(tmp_path, text, files) == [
        "line 3: case 'nobody' is not in the folder; correct it",
        "line 4: case 'a' is in line 2 already; keep one",
        "line 5: site '../B' is no name of a site: 1 to 32 letters, digits, - and _, beginning with"
        " a letter or digit",
        "line 6: names no site; write one",
        "line 6: split 'tset' is none of train, validation, test, unlabelled; leave it empty for"
        " the folds",
        "line 7: group 'p' is at site A in line 2 and here at C; keep a group at one site",
        "line 7: group 'p' is train in line 2 and without one here; keep a group in one part",
        "line 8: group 'p' is train in line 2 and without one here; keep a group in one part",
        "line 9: case 'u' has no label, so cannot be test; write unlabelled",
        "line 10: case 'f.nii.gz' is not in the folder (names have no suffix); correct it",
        "line 11: has 2 fields, the first line has 4; correct it",
        "line 13: site 'all' would be taken for all sites together; name it otherwise",
        "line 15: names no case; write one",
        "site OnlyTest has no case to train on; give it one, or another site's name",
        "sites C and c differ by capitals alone; rename one",
        "has no line for case f; add one, or take the case out of the folder",
        "has no line for case g; add one, or take the case out of the folder",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no case"),
        ("case,site,split,group\n", "holds no case"),
        ("case;site\na;A\n", "separated by semicolons"),
        ('"case";"site"\n"a";"A"\n', "separated by semicolons"),
        ("case\tsite\na\tA\n", "separated by tabs"),
        ("name,site\na,A\n", "lacks the column case"),
        ("case,site,grup\na,A,1\n", "the column 'grup' is none of case, site, split, group"),
        ("case,site,site\na,A,B\n", "the column site is there twice"),
        ('case,site\n"a,A\nb,B\n', "is no CSV"),
        ("case,site\nä,A\n".encode("latin-1"), "is not in UTF-8"),
        ("case,site\na,A\n".encode("utf-16"), "is not in UTF-8"),
        ("case,site,split\na,A,test\nb,A,unlabelled\n", "no case is trained on with its label"),
        ("case,site,split\na,A,train\nb,A,train\n", "no case is tested on"),
    ],
)
def test_a_file_that_is_no_such_table(tmp_path: Path, text: str | bytes, words: str) -> None:
    lines = mistakes(tmp_path, text, folder("a", "b"))
    assert any(words in line for line in lines), lines


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SplitError, match=r"cases\.csv: cannot be read \(No such file"):
        assigned_cases(tmp_path / "cases.csv", folder("a"))


def test_the_digest_is_of_what_is_said_not_of_how(tmp_path: Path) -> None:
    files = folder("a", "b", "c")
    first = read(tmp_path, "case,site,group\na,A,1\nb,A,1\nc,B,\n", files)
    again = read(tmp_path, "site,case,split,group\r\nB,c_0000,,\r\nA,b,,1\r\nA,a,,1\r\n", files)
    assert assignment_digest(first) == assignment_digest(again)
    for text in (
        "case,site\na,A\nb,A\nc,B\n",
        "case,site,group\na,A,1\nb,A,1\nc,C,\n",
        "case,site,split,group\na,A,,1\nb,A,,1\nc,B,train,\n",
    ):
        assert assignment_digest(read(tmp_path, text, files)) != assignment_digest(first)


def grouped(sizes: dict[str, list[int]]) -> list[StudyCase]:
    return [
        StudyCase(
            name=f"{site}{g}.{n}", image=HERE, label=HERE, reference=HERE, site=site,
            group=f"{site}{g}",
        )
        for site, groups in sizes.items()
        for g, size in enumerate(groups)
        for n in range(size)
    ]  # fmt: skip


@given(
    st.dictionaries(
        st.sampled_from(["A", "Bern", "C-3"]),
        st.lists(st.integers(1, 4), min_size=1, max_size=9),
        min_size=1,
    ),
    st.integers(0, 99),
)
def test_a_group_is_never_split(sizes: dict[str, list[int]], seed: int) -> None:
    cases = grouped(sizes)
    tested: Counter[str] = Counter()
    for fold in range(1, FOLDS + 1):
        chosen = choose_fold(cases, fold, seed)
        parts: dict[str, set[str]] = {}
        for case in chosen:
            parts.setdefault(case.group, set()).add(case.part)
        assert all(len(of) == 1 for of in parts.values())
        assert {c.site for c in chosen if c.part == "labelled"} == set(sizes)
        tested.update(c.name for c in chosen if c.part == "test")
    assert all(count == 1 for count in tested.values())


@given(st.lists(st.integers(0, 6), min_size=1, max_size=6), st.integers(0, 99))
def test_without_groups_the_folds_are_what_they_were(counts: list[int], seed: int) -> None:
    """Dealt in turn, site after site, as by the code before there were groups."""
    cases = [
        StudyCase(name=f"{s}{n}", image=HERE, label=HERE, reference=HERE, site="ABCDEF"[s])
        for s, count in enumerate(counts)
        for n in range(count)
    ]
    rng = np.random.default_rng([seed, 11])
    folds: list[list[str]] = [[] for _ in range(FOLDS)]
    turn = 0
    for site in sorted({case.site for case in cases}):
        of_site = [case.name for case in cases if case.site == site]
        for index in rng.permutation(len(of_site)):
            folds[turn % FOLDS].append(of_site[index])
            turn += 1
    for fold in range(1, FOLDS + 1):
        test, validation = set(folds[fold - 1]), set(folds[fold % FOLDS][::2])
        for site in {case.site for case in cases}:
            names = sorted((c.name for c in cases if c.site == site), key=lambda n: n in test)
            if not set(names) - test - validation:
                test.discard(names[0])
                validation.discard(names[0])
        chosen = choose_fold(cases, fold, seed)
        assert {c.name for c in chosen if c.part == "test"} == test
        assert {c.name for c in chosen if c.part == "validation"} == validation


def test_where_every_case_has_its_part_there_is_one_fold() -> None:
    cases = [replace(case, fixed=True) for case in grouped({"A": [1, 1]})]
    refuse_needless_folds(cases, [1], "--folds")
    refuse_needless_folds(grouped({"A": [1]}), [1, 2], "--folds")
    with pytest.raises(SplitError, match="there is one fold; give --folds 1"):
        refuse_needless_folds(cases, [1, 2], "--folds")
