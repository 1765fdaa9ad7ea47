import pytest

from tenfold._errors import UserInputError
from tenfold.io import field, file_hash, read_json, read_text


def write(tmp_path, data):
    path = tmp_path / "doc.json"
    path.write_bytes(data)
    return path


def test_reads_with_and_without_mark(tmp_path):
    assert read_json(write(tmp_path, b'{"a": "\xc3\xbc"}')) == {"a": "ü"}
    assert read_json(write(tmp_path, b"\xef\xbb\xbf[1]")) == [1]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "line 1, column 1: is not JSON"),
        (b'{"a": 1,\n "b" 2}', "line 2, column 6: is not JSON"),
        (b'"\xff"', "byte 1: is not UTF-8 text"),
        (b"[" * 100_000, "document: cannot be read as JSON"),
        (b"1" * 10_000, "document: cannot be read as JSON"),
    ],
)
def test_damage(tmp_path, data, text):
    with pytest.raises(UserInputError, match=text) as caught:
        read_json(write(tmp_path, data))
    assert "doc.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_texts(tmp_path):
    assert read_text(write(tmp_path, b"\xc3\xbc\n")) == "ü\n"
    with pytest.raises(UserInputError, match=r"doc\.json: the file cannot be read as text"):
        read_text(write(tmp_path, b"\xff\xfe\x00"))
    with pytest.raises(UserInputError, match=r"no\.txt: the file is missing"):
        read_text(tmp_path / "no.txt")
    with pytest.raises(UserInputError, match="cannot be read as text"):
        read_text(tmp_path)


def test_absent_and_folder(tmp_path):
    with pytest.raises(UserInputError, match=r"no\.json: file: cannot be read \(No such file"):
        read_json(tmp_path / "no.json")
    with pytest.raises(UserInputError, match="is a folder"):
        read_json(tmp_path)


def test_field():
    doc = {"a": {"b": [{"c": 3, "flag": True, "t": "x"}]}}
    assert field(doc, "a.b[0].c", int, path="f") == 3
    assert field(doc, "a.b[0].c", float, path="f") == 3
    assert field(doc, "a.b[0].flag", bool, path="f") is True
    for name in ("a.x", "a.b[1]", "a.b.c", "a.b[0].c.d", "a[0]"):
        with pytest.raises(UserInputError, match=r"f: .* is missing"):
            field(doc, name, int, path="f")
    with pytest.raises(UserInputError, match=r"f: a\.b\[0\]\.t: got str 'x'; expected int or float"):
        field(doc, "a.b[0].t", (int, float), path="f")
    with pytest.raises(UserInputError, match="got bool True; expected int"):
        field(doc, "a.b[0].flag", int, path="f")


def test_the_hash_of_a_file(tmp_path):
    assert file_hash(write(tmp_path, b"abc")) == "ba7816bf8f01cfea"  # FIPS 180-2's example
    with pytest.raises(UserInputError, match=r"none.ckpt: file: cannot be read"):
        file_hash(tmp_path / "none.ckpt")
