"""The table of patients: every row that is meant for a case reaches it, or is told."""

from pathlib import Path

import pytest

from client.data.patients import read_patients
from protocol.config.study import ProtocolError

CASES = {"a1", "b1", "case_007", "M\u00fcller"}


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "p.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    "text",
    [
        "case,patient\na1,P1\nb1,P1\n",
        "\ufeffCase, PATIENT \r\n a1 ,P1\r\n b1, P1 \r\n",
        "case,patient\ra1,P1\rb1,P1\r",
        "centre,patient,case\nx,P1,a1\n\n,P1,b1\n,,\n",
        'case,patient\n"a1","P1"\nb1,P1,,\n',
    ],
)
def test_a_table_as_spreadsheets_write_it(tmp_path: Path, text: str) -> None:
    found = read_patients(written(tmp_path, text), CASES)
    assert found.of_case == {"a1": "P1", "b1": "P1"} and not found.elsewhere


def test_a_table_may_hold_cases_of_elsewhere(tmp_path: Path) -> None:
    text = "case,patient\na1,P1\nz9,P2\nz8,\nA1,P9\n"  # A1 is another one, as a1 has its row
    found = read_patients(written(tmp_path, text), CASES)
    assert found.of_case["a1"] == "P1" and found.elsewhere == 3


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("a1.nii.gz,P1", "line 2: case 'a1.nii.gz' is no case here, 'a1' is; correct"),
        ("a1_0000,P1", "line 2: case 'a1_0000' is no case here, 'a1' is"),
        ("a1_0000.nii.gz,P1", "line 2: case 'a1_0000.nii.gz' is no case here, 'a1' is"),
        ("B1,P1", "line 2: case 'B1' is no case here, 'b1' is"),
        ("Case 7,P1", "line 2: case 'Case 7' is no case here, 'case_007' is"),
        ("m\u00fcller,P1", "line 2: case 'm\u00fcller' is no case here, 'M\u00fcller' is"),
        ("a1,P1\na1.nii.gz,P2", "line 3: case 'a1.nii.gz' is no case here, 'a1' is"),
        ("a1,P1\nb1", "line 3: has 1 fields, the first line has 2; correct it"),
        ("a1,P1,x", "line 2: has 3 fields"),
        ("a1,", "line 2: case 'a1' has no patient; write one"),
        (",P1", "line 2: names no case"),
        ("a1,P1\na1,P2", "line 3: names a case twice, 'a1' is in line 2; keep one"),
        ("a1,P1\nb1,p1", "line 3: patient 'p1' is 'P1' in line 2; write one patient in one way"),
        ("a1,0017\nb1,17", "line 3: patient '17' is '0017' in line 2"),
        ("y,P1\nz,P1", "none of its 2 rows names a case of the data folder"),
        ('"a1,P1\nb1,P1', "is no CSV"),
    ],
)
def test_a_row_that_does_not_reach_its_case_is_told(tmp_path: Path, rows: str, said: str) -> None:
    path = written(tmp_path, f"case,patient\n{rows}\n")
    with pytest.raises(ProtocolError) as caught:
        read_patients(path, CASES)
    assert str(caught.value).startswith(f"{path}: ") and said in str(caught.value)


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    path = written(tmp_path, "case,patient\na1,\nB1,P1\ncase_007\n")
    with pytest.raises(ProtocolError) as caught:
        read_patients(path, CASES)
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[1] for line in lines] == ["line 2", "line 3", "line 4"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"case,patient\na1,M\xfcller\n", "line 2: is not in UTF-8; save the file as CSV in UTF-8"),
        ("case,patient\na1,P\n".encode("utf-16"), "is in UTF-16; save it as CSV in UTF-8"),
        ("case,patient\na1,P\n".encode("utf-16-be"), "is in UTF-16; save it as CSV in UTF-8"),
        (b"case;patient\na1;P1\n", "line 1: fields are separated by semicolons"),
        (b"case\tpatient\na1\tP1\n", "line 1: fields are separated by tabs"),
        (b"case,name\na1,P1\n", "line 1: lacks the column patient"),
        (b"case,case,patient\na1,a1,P1\n", "line 1: has twice the column case"),
        (b"case,patient\n", "must have the columns case and patient, and a row"),
        (b"", "must have the columns case and patient, and a row"),
    ],
)
def test_a_file_that_is_no_table_of_this_kind(tmp_path: Path, content: bytes, said: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        read_patients(written(tmp_path, content), CASES)
    assert said in str(caught.value)
