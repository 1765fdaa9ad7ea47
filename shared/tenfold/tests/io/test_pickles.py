import collections
import contextlib
import datetime
import io
import os
import pickle
import struct
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold._errors import UserInputError
from tenfold.io import UnsafePickleError, restricted_load
from tenfold.testing import child_environment

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def load(data, **options):
    return restricted_load(io.BytesIO(data), **options)


def same(a, b):
    if isinstance(a, np.ndarray) and a.dtype.hasobject:
        return a.shape == b.shape and all(same(x, y) for x, y in zip(a.ravel(), b.ravel(), strict=True))
    if isinstance(a, (np.ndarray, np.generic)):
        return type(a) is type(b) and a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return type(a) is type(b) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


VALUES = [
    None,
    True,
    3,
    2**200,
    -1.5,
    2 + 3j,
    "ü\n",
    b"\x00\xff",
    bytearray(b"abc"),
    [1, [2, (3,)]],
    {"a": {1: 2}, (1, "b"): 3, b"k": 4, None: 5},
    {1, 2},
    frozenset({"x"}),
    collections.OrderedDict([("b", 1), ("a", 2)]),
    np.arange(6, dtype=np.float32).reshape(2, 3),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.arange(3, dtype=">i8"),
    np.zeros((0, 4), np.uint8),
    np.array(7, dtype=np.int16),
    np.array([b"ab", b"c"]),
    np.array(["äb", "c"]),
    np.array([True, False]),
    np.array([1 + 2j], np.complex64),
    np.array([(1, 2.5)], dtype=[("i", "<i4"), ("v", "<f8", (1,))]),
    np.array([[1], "two", np.arange(2)], dtype=object),
    np.float64(2.5),
    np.int32(4),
    np.bool_(True),
    np.str_("abc"),
    {"feat": np.ones((3, 2), np.float16), "again": [np.float32(1), np.float32(2)]},
]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("value", VALUES, ids=lambda v: f"{type(v).__name__}-{str(v)[:20]!r}")
def test_honest_values(value, protocol):
    data = pickle.dumps(value, protocol)
    assert same(pickle.loads(data), load(data))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_dtypes_and_sharing(protocol):
    shared = np.arange(3)
    loop = [1]
    loop.append(loop)
    record = np.dtype([("a", "<f4"), ("b", "u1", (2, 2))])
    a, b, back, dtype, swapped = load(pickle.dumps((shared, shared, loop, record, np.dtype(">f8")), protocol))
    assert a is b
    assert back[1] is back
    assert dtype == record
    assert swapped == np.dtype(">f8")
    a[0] = 9  # not a view of read-only bytes


def test_numpy_1_names():
    new = pickle.dumps({"x": np.arange(4.0), "s": np.float32(3)}, 2)
    assert b"numpy._core" in new
    old = new.replace(b"numpy._core.", b"numpy.core.")
    assert same(load(new), load(old))


def test_python_2_pickle_with_text_for_bytes():
    # What Python 2 wrote for {'data': array([[1, 2]], uint8), 'labels': [3]}: protocol 2, byte strings.
    program = (
        b"\x80\x02}q\x00(U\x04dataq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85q"
        b"\x04U\x01bq\x05\x87q\x06Rq\x07(K\x01K\x01K\x02\x86q\x08cnumpy\ndtype\nq\tU\x02u1q\nK\x00K\x01\x87q\x0bRq"
        b"\x0c(K\x03U\x01|q\rNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x0eb\x89U\x02\x01\xfeq\x0ftq\x10bU\x06labels"
        b"q\x11]q\x12K\x03au."
    )
    by_text = load(program, encoding="latin1")
    assert same(by_text, {"data": np.array([[1, 254]], np.uint8), "labels": [3]})
    by_bytes = load(program, encoding="bytes")
    assert same(by_bytes, {b"data": np.array([[1, 254]], np.uint8), b"labels": [3]})


class Call:
    def __init__(self, function, *args):
        self.parts = (function, args)

    def __reduce__(self):
        return self.parts


def text(value):
    return b"\x8c" + bytes([len(value)]) + value.encode()


HUGE = struct.pack("<Q", 2**40)
ATTACKS = {
    "os.system": pickle.dumps(Call(os.system, "touch was_run")),
    "eval": pickle.dumps(Call(eval, "open('was_run', 'w')")),
    "exec in a list in a dict": pickle.dumps({"weights": [1, (Call(exec, "open('was_run', 'w')"),)]}),
    "subprocess": pickle.dumps(Call(subprocess.call, ["touch", "was_run"])),
    "getattr": pickle.dumps(Call(getattr, Call(__import__, "os"), "system")),
    "protocol 0 global": b"cposix\nsystem\n(S'touch was_run'\ntR.",
    "INST": b"(S'touch was_run'\niposix\nsystem\n.",
    "OBJ": b"(cposix\nsystem\nS'touch was_run'\no.",
    "STACK_GLOBAL from the memo": b"\x80\x04"
    + text("system")
    + b"\x940"
    + text("posix")
    + b"\x940h\x01h\x00\x93"
    + text("touch was_run")
    + b"\x85R.",
    "STACK_GLOBAL with a dotted path": b"\x80\x04" + text("numpy") + text("f2py.os.system") + b"\x93(tR.",
    "copyreg": b"\x80\x02ccopyreg\n_reconstructor\ncos\n_wrap_close\nc__builtin__\nobject\nN\x87R.",
    "copyreg extension": b"\x80\x02\x82\x07.",
    "walk from an allowed class": b"\x80\x04ccollections\nOrderedDict\n" + text("__init__") + b"\x86\x93.",
    "attribute of an allowed name": b"\x80\x04" + text("numpy") + text("ndarray.tofile") + b"\x93(tR.",
    "state of a name": b"\x80\x02cnumpy\nndarray\n}U\x01aK\x01sb.",
    "state of a list": b"\x80\x02]}b.",
    "call of a value": b"\x80\x02]K\x01\x85R.",
    "newobj_ex keywords": b"\x80\x04cbuiltins\nbytearray\n)}" + text("source") + b"J\xff\xff\xff\x7fs\x92.",
    "persistent id": b"\x80\x02U\x04evilQ.",
    "numpy load": pickle.dumps(Call(np.load, "was_run")),
    "numpy test runner": b'cnumpy.testing._private.utils\nrunstring\n(S\'open("was_run","w")\'\n}tR.',
    "torch load": b"ctorch.serialization\nload\n(S'was_run'\ntR.",
    "allocate bytes": b"\x80\x03cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.",
    "allocate array": b"\x80\x02cnumpy\nndarray\nJ\xff\xff\xff\x7f\x85R.",
    "allocate by reconstruct": b"\x80\x03cnumpy.core.multiarray\n_reconstruct\n"
    b"cnumpy\nndarray\nJ\xff\xff\xff\x7f\x85C\x01b\x87R.",
    "huge BINBYTES8": b"\x80\x04\x8e" + HUGE + b"x.",
    "huge BINUNICODE8": b"\x80\x04\x8d" + HUGE + b"x.",
    "huge BYTEARRAY8": b"\x80\x05\x96" + HUGE + b"x.",
    "huge FRAME": b"\x80\x04\x95" + HUGE + b"N.",
    "huge LONG4": b"\x80\x02\x8b\xff\xff\xff\x7f1.",
    "negative LONG4": b"\x80\x02\x8b\xff\xff\xff\xff1.",
    "out-of-band buffer": b"\x80\x05\x97.",
    "set with a tree": b"\x80\x04\x8f(K\x01\x85" + b"2\x86" * 60 + b"\x90.",
    "key with a tree": b"\x80\x04}K\x01\x85" + b"2\x86" * 60 + b"K\x01s.",
}


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_end_in_one_sentence_and_run_nothing(name, tmp_path, monkeypatch):
    file = tmp_path / "weights.pkl"
    file.write_bytes(ATTACKS[name])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserInputError) as caught:
        restricted_load(file, tensors=True)
    assert "weights.pkl: pickle: " in str(caught.value)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["weights.pkl"]


def test_the_attacks_are_real(tmp_path):
    """The standard loader does run the first ones; so a refusal above means something."""
    for name in ("os.system", "eval", "protocol 0 global", "INST", "OBJ", "STACK_GLOBAL from the memo"):
        code = f"import pickle, sys; pickle.loads({ATTACKS[name]!r})"
        subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, timeout=60, check=False
        )
        assert os.listdir(tmp_path) == ["was_run"], name
        os.unlink(tmp_path / "was_run")


def test_message_names_the_global():
    with pytest.raises(UserInputError, match=r"<file>: pickle: names posix\.system, which is not allowed"):
        load(ATTACKS["os.system"])


class Storage:
    """Pickles as a tensor's storage whose own bytes are a pickle that runs a command."""

    def __reduce__(self):
        return torch.storage._load_from_bytes, (pickle.dumps(Call(os.system, "touch was_run"), 2),)


def test_unsafe_is_told_from_damaged(tmp_path, monkeypatch):
    """Also inside the bytes of a storage, which stock torch reads with an unrestricted pickle."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnsafePickleError, match=r"names posix\.system"):
        load(ATTACKS["os.system"])
    with pytest.raises(UnsafePickleError, match=r"storage that names .*posix\.system"):
        load(pickle.dumps(Storage()), tensors=True)
    assert not os.listdir(tmp_path)
    with pytest.raises(UserInputError) as caught:
        load(pickle.dumps([1, 2])[:-3])
    assert not isinstance(caught.value, UnsafePickleError)


class Build:
    """Pickles as a call followed by a state."""

    def __init__(self, function, args, state):
        self.parts = (function, args, state)

    def __reduce__(self):
        return self.parts


def test_forged_dtype_flags_do_not_reach_numpy():
    """A record with an object field and forged flags makes numpy read raw bytes as a pointer."""
    state = list(np.dtype([("o", "O")]).__reduce__()[2])
    assert state[7] != 0
    state[7] = 0
    program = pickle.dumps(Build(np.dtype, ("V8", False, True), tuple(state)))
    assert not pickle.loads(program).hasobject  # numpy believes the forgery
    with pytest.raises(UserInputError, match="no plain dtype"):
        load(program)


@pytest.mark.parametrize(
    "call",
    [
        Call(np._core.multiarray.scalar, np.dtype("O"), b"12345678"),
        Call(np._core.numeric._frombuffer, b"12345678", np.dtype("O"), (1,), "C"),
    ],
)
def test_bytes_are_never_taken_for_objects(call):
    with pytest.raises(UserInputError, match="raw bytes in place of Python objects"):
        load(pickle.dumps(call))


def test_second_state_of_a_dtype_is_refused():
    state = np.dtype("V8").__reduce__()[2]
    twice = pickle.dumps(np.dtype([("a", "<i8")]), 2)[:-1] + pickle.dumps(state, 2)[2:-1] + b"b."
    with pytest.raises(UserInputError, match="second state"):
        load(twice)


@pytest.mark.parametrize(
    ("shape", "raw"),
    [((3,), b"12345678"), ((2**40,), b"12345678"), ((-1,), b""), ((2**40, 0), b"1"), ((True,), b"8")],
)
def test_array_state_is_checked(shape, raw):
    state = (1, shape, np.dtype("f8"), False, raw)
    program = pickle.dumps(Build(np._core.multiarray._reconstruct, (np.ndarray, (0,), b"b"), state))
    with pytest.raises(UserInputError, match=r"array of shape|damaged"):
        load(program)


def test_other_classes_need_permission():
    when = pickle.dumps(datetime.date(2020, 1, 2))
    with pytest.raises(UserInputError, match=r"names datetime\.date, which is not allowed"):
        load(when)
    assert load(when, allow={"datetime.date": lambda raw: ("date", raw[2])}) == ("date", 1)


class Stub:
    def __init__(self, *args):
        self.args = args

    def __setstate__(self, state):
        self.state = state


def test_stand_in_receives_arguments_and_state():
    data = pickle.dumps(subprocess.CompletedProcess(["x"], 3), 4)
    value = load(data, allow={"subprocess.CompletedProcess": Stub})
    assert type(value) is Stub
    assert value.state["returncode"] == 3
    with pytest.raises(UserInputError, match="sets the state of a int"):
        load(data, allow={"subprocess.CompletedProcess": lambda: 3})


def test_mentioned_class_stays_inert():
    value = load(pickle.dumps({"kind": np.ndarray}))["kind"]
    assert str(value) == "numpy.ndarray"
    assert not callable(value)


def test_tensors_of_plain_pickle():
    parameter = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    whole = torch.arange(6.0).reshape(2, 3)
    value = {"w": whole.t(), "b": parameter, "i": torch.tensor([1], dtype=torch.int64), "d": torch.float16}
    back = load(pickle.dumps(value), tensors=True)
    assert torch.equal(back["w"], whole.t())
    assert back["w"].stride() == (1, 3)
    assert isinstance(back["b"], torch.nn.Parameter)
    assert back["b"].requires_grad
    assert back["d"] is torch.float16
    with pytest.raises(UserInputError, match="not allowed"):
        load(pickle.dumps(value))


def test_tensor_larger_than_its_storage_is_refused():
    class Long:
        def __reduce__(self):
            storage = torch.storage.TypedStorage(
                wrap_storage=torch.zeros(4).untyped_storage(), dtype=torch.float32, _internal=True
            )
            return torch._utils._rebuild_tensor_v2, (
                storage,
                0,
                (10**9,),
                (1,),
                False,
                collections.OrderedDict(),
            )

    with pytest.raises(UserInputError, match="more values than its storage holds"):
        load(pickle.dumps(Long()), tensors=True)


def test_storages_through_persistent_ids():
    """The pickle inside a `torch.save` file, read without torch's own unpickler."""
    import zipfile

    packed = io.BytesIO()
    weight = torch.arange(4.0).reshape(2, 2)
    torch.save({"w": weight, "alias": weight[1]}, packed)
    archive = zipfile.ZipFile(packed)
    folder = archive.namelist()[0].split("/")[0]

    def storage(pid):
        kind, cls, key, _, count = pid
        assert (kind, str(cls)) == ("storage", "torch.FloatStorage")
        data = torch.frombuffer(bytearray(archive.read(f"{folder}/data/{key}")), dtype=torch.float32)
        assert len(data) == count
        return data._typed_storage()

    back = load(archive.read(f"{folder}/data.pkl"), tensors=True, persistent_load=storage)
    assert torch.equal(back["w"], weight)
    assert torch.equal(back["alias"], weight[1])


text = st.text("a\x00\n'\\é€\u2028\U0001f600")  # one of each length in UTF-8, and what needs an escape
json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | text | st.binary(),
    lambda children: (
        st.lists(children) | st.dictionaries(text | st.integers(), children) | st.tuples(children)
    ),
    max_leaves=20,
)


@settings(max_examples=30, deadline=None)
@given(json_like, st.sampled_from(list(PROTOCOLS)))
def test_round_trip_property(value, protocol):
    assert same(value, load(pickle.dumps(value, protocol)))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damage_never_escapes(data):
    """Any damaged pickle gives a value or the one error; never another exception, never a crash."""
    value = {"a": np.arange(5.0), "b": [np.float32(1), {"x": (1, 2)}], "c": {3}, "d": np.array([(1,)], "i4,")}
    program = bytearray(pickle.dumps(value, data.draw(st.sampled_from(list(PROTOCOLS)))))
    for _ in range(data.draw(st.integers(1, 4))):
        program[data.draw(st.integers(0, len(program) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(UserInputError):
        load(bytes(program[: data.draw(st.integers(1, len(program)))]))


def test_no_memory_for_claimed_sizes():
    """All attacks again under 2 GB of address space and 200 MB of memory in use."""
    code = r"""
        import io, re, resource, sys
        import numpy
        from tenfold.io import UnsafePickleError, restricted_load
        from tenfold._errors import UserInputError
        resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
        for data in ATTACKS:
            try:
                restricted_load(io.BytesIO(data))
            except UserInputError as error:
                assert "memory" not in str(error), error
            else:
                raise SystemExit("not refused")
        peak = int(re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1])
        assert peak < 200_000, peak
        assert "torch" not in sys.modules
        """
    code = textwrap.dedent(code).replace("ATTACKS", repr(list(ATTACKS.values())))
    env = child_environment({"OPENBLAS_NUM_THREADS": "1"})
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
