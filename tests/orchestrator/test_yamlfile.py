"""Values with their lines, nothing but values, and every problem in one go."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tests.strategies  # noqa: F401  its hypothesis profile
from orchestrator.errors import SpecError
from orchestrator.yamlfile import MAX_BYTES, Document, dump, override, read


def document(folder: Path, text: str | bytes) -> Document:
    path = folder / "f.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read(path)


def complaints(found: Document, folder: Path) -> list[str]:
    with pytest.raises(SpecError) as caught:
        found.check()
    return [line.replace(f"{folder}/", "") for line in caught.value.problems]


def test_values_come_with_their_lines(tmp_path: Path) -> None:
    found = document(tmp_path, "a: 1\nb:\n  c: [x, 2.5]\n  d: null\ne: true\n'f g': -3\n")
    found.check()
    assert found.data == {"a": 1, "b": {"c": ["x", 2.5], "d": None}, "e": True, "f g": -3}
    assert found.where(("b", "c", 1)).endswith("f.yaml:3")
    assert found.where(("b", "d", "nothing below")).endswith("f.yaml:4")
    assert found.say(("b", "c", 1), "odd").endswith("f.yaml:3: b.c[1]: odd")
    assert found.say(("f g",), "odd").endswith("f.yaml:6: 'f g': odd")


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    assert document(tmp_path, b"\xef\xbb\xbfa: 1\n").data == {"a": 1}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "a: 1\nb: on\n",
            "f.yaml:2: b: 'on' is a truth value in YAML; write true or false, or for a name quote it: 'on'",
        ),
        ("a: 1\nb: [1, no]\n", "f.yaml:2: b[1]: 'no' is a truth value"),
        ("a: 010\n", 'f.yaml:1: a: "010" is no plain finite decimal number'),
        ("a: 1:30\n", 'f.yaml:1: a: "1:30" is no plain finite decimal number'),
        ("a: .inf\n", 'f.yaml:1: a: ".inf" is no plain finite decimal number'),
        ("a: .nan\n", 'f.yaml:1: a: ".nan" is no plain finite decimal number'),
        ("a: 1.0e+999\n", 'f.yaml:1: a: "1.0e+999" is no plain finite decimal number'),
        (f"a: {'9' * 5000}\n", "is no plain finite decimal number"),
        ("a: 2020-01-01\n", 'f.yaml:1: a: "2020-01-01" is a timestamp in YAML; quote it'),
        ('a: "x\\0y"\n', 'f.yaml:1: a: "x\\u0000y" holds a control character; remove it'),
        ("a: 1\nb: 2\na: 3\n", "f.yaml:3: a: the key is given twice, first at f.yaml:1; keep one"),
        ("1: x\n", "f.yaml:1: 1: this key is not a name in YAML; quote it or use letters"),
        ("on: x\n", "f.yaml:1: on: this key is not a name in YAML"),
        ("? [a]\n: x\n", "f.yaml:1: '?': this key is not a name in YAML"),
        ("a: &x 1\n", "f.yaml:1: found the anchor &x; values only: no anchors, aliases or tags"),
        ("a: 1\nb: *x\n", "f.yaml:2: found the alias *x; values only"),
        ("a: !!python/object/apply:os.system [ls]\n", "f.yaml:1: found the tag tag:yaml.org,2002:python/object/apply"),
        ("a: !mine 1\n", "f.yaml:1: found the tag !mine"),
        ("a: 1\n<<: {b: 2}\n", "f.yaml:2: <<: this key is not a name in YAML".replace("<<", "'<<'")),
        ("a:\n\t- 1\n", "f.yaml:2: not YAML: found a tab; indent with spaces"),
        ("a: b: c\n", "f.yaml:1: not YAML: mapping values are not allowed here"),
        ("a: [1, 2\nb: 3\n", "f.yaml:2: not YAML: while parsing a flow sequence: expected"),
        (
            "a: 1\n---\nb: 2\n",
            "f.yaml:2: not YAML: expected a single document in the stream: but found another document",
        ),
        ("a: \x01\n", "f.yaml:1: not YAML: special characters are not allowed"),
        ("", "f.yaml: the file is empty; a mapping (lines of `key: value`) is due"),
        ("# only words\n", "f.yaml: the file is empty"),
        ("- a\n- b\n", 'f.yaml: found ["a", "b"]; a mapping'),
        ("just text\n", 'f.yaml: found "just text"; a mapping'),
        (b"a: 1\nb: \xff\xfe\n", "f.yaml:2: found byte 0xff, which is not UTF-8; save the file as UTF-8"),
        ("a: " + "[" * 40 + "]" * 40 + "\n", "f.yaml:1: nested more than 16 deep"),
        ("[" * 200_000, "f.yaml:1: nested more than 16 deep"),
        ("#" * (MAX_BYTES + 1), "f.yaml: the file is larger than 256 kB"),
    ],
)
def test_what_is_no_plain_value_is_refused_with_its_line(tmp_path: Path, text: str | bytes, line: str) -> None:
    lines = complaints(document(tmp_path, text), tmp_path)
    assert len(lines) == 1
    assert line in lines[0]
    assert "\n" not in lines[0]


def test_what_cannot_be_opened_is_told(tmp_path: Path) -> None:
    assert complaints(read(tmp_path), tmp_path)[0].endswith("found a folder; a YAML file is due")
    assert complaints(read(tmp_path / "none.yaml"), tmp_path) == [
        "none.yaml: cannot be read: No such file or directory"
    ]
    assert complaints(read(Path("a\0b")), tmp_path)[0].endswith("cannot be read: embedded null byte")
    os.mkfifo(tmp_path / "pipe")
    assert complaints(read(tmp_path / "pipe"), tmp_path) == ["pipe: found a special file; a YAML file is due"]
    assert complaints(read(Path("/dev/zero")), tmp_path) == ["/dev/zero: found a special file; a YAML file is due"]


def test_all_problems_come_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    found = document(tmp_path, "a: on\nb: 1\nc: 010\n")
    found.problem(("b",), "is odd")
    found.problem(("a",), "nothing more is said about a value that could not be read")
    found.problem((), "about the file")
    lines = complaints(found, tmp_path)
    assert [line.split(": ")[0] for line in lines] == ["f.yaml:1", "f.yaml:1", "f.yaml:2", "f.yaml:3"]
    assert not any("nothing more" in line for line in lines)


def test_overrides_replace_values_and_make_mappings(tmp_path: Path) -> None:
    found = document(tmp_path, "a: 1\nb: {c: [1, {d: 2}]}\n")
    override(found, ["a=[x, 2.5]", "b.c.1.d=null", "new.deep.key=text=with=signs", "empty={}"])
    found.check()
    assert found.data == {
        "a": ["x", 2.5],
        "b": {"c": [1, {"d": None}]},
        "new": {"deep": {"key": "text=with=signs"}},
        "empty": {},
    }
    assert found.say(("b", "c", 1, "d"), "odd") == "override 'b.c.1.d=null': b.c[1].d: odd"
    assert found.say(("a", 0), "odd") == "override 'a=[x, 2.5]': a[0]: odd"


@pytest.mark.parametrize(
    ("pair", "line"),
    [
        ("trials", "override 'trials': a dotted key, '=' and a value are due, for example search.trials=20"),
        ("=3", "override '=3': a dotted key, '=' and a value are due"),
        ("a..b=3", "override 'a..b=3': a dotted key"),
        ("a.b=3", "override 'a.b=3': a.b: a is 1, which has no key 'b'"),
        ("b.c.2=3", "override 'b.c.2=3': b.c[2]: b.c is a list of 2; a position below 2 is due"),
        ("b.c.x=3", "override 'b.c.x=3': b.c.x: b.c is a list of 2; a position below 2 is due"),
        ("b.0=3", "override 'b.0=3': b[0]: b is {\"c\": [1, 2]}, which has no key 0"),
        ("a=on", "override 'a=on': a: 'on' is a truth value in YAML"),
        ("a=[1", "override 'a=[1': a: not YAML"),
        ("a=*x", "override 'a=*x': a: found the alias *x"),
        ("a=!!python/name:os.system", "override 'a=!!python/name:os.system': a: found the tag"),
    ],
)
def test_a_wrong_override_is_named(tmp_path: Path, pair: str, line: str) -> None:
    found = document(tmp_path, "a: 1\nb: {c: [1, 2]}\n")
    override(found, [pair])
    lines = complaints(found, tmp_path)
    assert len(lines) == 1
    assert lines[0].startswith(line)


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("aZ0 é中\u2028.:-#'\"\\{}[]&*!|>%@`,?~\n", max_size=12)
    | st.sampled_from(
        ["on", "3e-5", "010", "null", "~", "2020-01-01", "1:30", "<<", "=", "", " x ", "*a", "&b", "!c", "#d"]
    ),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc-_ 1:", min_size=1, max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.text("abcxyz_", min_size=1, max_size=6), plain, max_size=4))
def test_what_is_dumped_reads_back_equal(tmp_path: Path, values: dict[str, object]) -> None:
    found = document(tmp_path, dump(values))
    found.check()
    assert found.data == values


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(st.text(st.sampled_from("abc:-[]{}?!&*#|>'\"\\%@`,\n\t 01.\0é"), max_size=40) | st.binary(max_size=40))
def test_any_bytes_give_values_or_complaints(tmp_path: Path, text: str | bytes) -> None:
    found = document(tmp_path, text)
    if found.problems:
        assert all("\n" not in line for line in complaints(found, tmp_path))
    else:
        assert document(tmp_path, dump(found.data)).data == found.data


def test_one_list_used_twice_is_written_without_an_alias() -> None:
    values = [1, 2]
    assert "*" not in dump({"a": values, "b": values})
