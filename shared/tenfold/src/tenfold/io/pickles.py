"""The one restricted unpickler, for published formats that force pickle on us.

A pickle is a program: it may name any importable object and call it. Here a name never becomes the object it
names. It becomes an inert token, and a call on a token runs a small builder of ours that checks its
arguments; a name without a builder ends the reading. The interpreter is the standard library's Python one,
because the C one trusts sizes that the file claims (a few bytes make it reserve gigabytes).
"""

import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, ClassVar, NoReturn

import numpy as np

from tenfold._errors import UserInputError
from tenfold.io._files import StrPath, bad_file, read_file, short

Builder = Callable[..., Any]
_NOTHING_MORE: Mapping[str, Builder] = MappingProxyType({})
_KEY_TYPES = (str, bytes, int, float, complex, type(None), np.generic)


class _Refused(Exception):  # noqa: N818 - carries a message to `restricted_load`, never leaves this module
    """The pickle asks for something that we do not do."""


class _Unsafe(_Refused):
    """It names or calls something that is not allowed."""


class UnsafePickleError(UserInputError):
    """A pickle names or calls something that is not allowed; the message says what. Nothing of it has run."""


class Name:
    """An inert stand-in for a global that the pickle names; equal to nothing but itself."""

    __slots__ = ("_builder", "_name")

    def __init__(self, name: str, builder: Builder) -> None:
        self._name = name
        self._builder = builder

    def __repr__(self) -> str:
        return f"<name {self._name}>"

    def __str__(self) -> str:
        return self._name


def _check_key(key: Any) -> None:
    """Allow flat keys only: hashing a nest of shared tuples takes exponential time."""
    if not isinstance(key, _KEY_TYPES) and not (
        isinstance(key, tuple) and all(isinstance(part, _KEY_TYPES) for part in key)
    ):
        raise _Refused(f"has a dictionary key or set member of type {type(key).__name__}")


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise _Refused(f"holds {what}")


class _Reader:
    """A file whose reads never go past its end, so that a claimed size cannot reserve memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def remaining(self) -> int:
        return len(self._data) - self._at

    def read(self, size: int) -> bytes:
        if not 0 <= size <= self.remaining():
            raise _Refused(f"ends early or is damaged ({size} bytes announced, {self.remaining()} left)")
        self._at += size
        return self._data[self._at - size : self._at]

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)
        view[:] = self.read(len(view))
        return len(view)

    def readline(self) -> bytes:
        end = self._data.find(b"\n", self._at)
        end = len(self._data) if end < 0 else end + 1
        line, self._at = self._data[self._at : end], end
        return line


class _NumpyBuilders:
    """Rebuild arrays, scalars and dtypes from checked parts.

    A dtype's pickled state carries flags that numpy trusts: a forged one makes numpy read raw bytes as object
    pointers. So a dtype is described anew from its kind, size and fields, and numpy's own state of that
    description is what is set. An array's or dtype's state is set once, before anything else can use it.
    """

    def __init__(self) -> None:
        self._fresh: dict[int, Any] = {}

    def names(self) -> dict[str, Builder]:
        table: dict[str, Builder] = {"numpy.dtype": self.dtype, "numpy.ndarray": _no_call}
        for core in ("numpy.core", "numpy._core"):
            table[f"{core}.multiarray._reconstruct"] = self.empty
            table[f"{core}.multiarray.scalar"] = self.scalar
            table[f"{core}.numeric._frombuffer"] = self.from_buffer
        return table

    def empty(self, kind: Any, shape: Any, code: Any) -> Any:
        _require(str(kind) == "numpy.ndarray" and shape == (0,) and code in ("b", b"b"), "a damaged array")
        array = np.empty(0, np.int8)
        self._fresh[id(array)] = array
        return array

    def dtype(self, code: Any, align: Any = False, copy: Any = True) -> Any:
        if isinstance(code, bytes):
            code = code.decode("ascii")
        _require(isinstance(code, str) and code[:1] in tuple("biufcOSUV"), f"the dtype {short(code)}")
        dtype = np.dtype(code, align=False, copy=True)
        self._fresh[id(dtype)] = dtype
        return dtype

    def from_buffer(self, buffer: Any, dtype: Any, shape: Any, order: Any) -> Any:
        _require(isinstance(buffer, (bytes, bytearray)) and order in ("C", "F"), "a damaged array")
        self._check_array(shape, dtype, len(buffer))
        return np.frombuffer(bytearray(buffer), dtype).reshape(shape, order=order)

    def scalar(self, dtype: Any, raw: Any = None) -> Any:
        if isinstance(raw, str):
            raw = raw.encode("latin1")
        _require(isinstance(raw, bytes), "a damaged scalar")
        self._check_array((), dtype, len(raw))
        return np.ndarray((), dtype, raw)[()]

    def set_state(self, instance: Any, state: Any) -> None:
        _require(self._fresh.pop(id(instance), None) is not None, "a second state of one array or dtype")
        if isinstance(instance, np.dtype):
            self._set_dtype(instance, state)
        else:
            self._set_array(instance, state)

    def _set_array(self, array: Any, state: Any) -> None:
        _require(isinstance(state, tuple) and len(state) == 5, "a damaged array")
        _, shape, dtype, fortran, raw = state
        if isinstance(raw, str):
            raw = raw.encode("latin1")
        objects = isinstance(dtype, np.dtype) and dtype.hasobject
        _require(isinstance(raw, list if objects else bytes), "a damaged array")
        self._check_array(shape, dtype, len(raw) * (dtype.itemsize if objects else 1), objects=objects)
        array.__setstate__((1, shape, dtype, bool(fortran), raw))

    def _check_array(self, shape: Any, dtype: Any, nbytes: int, *, objects: bool = False) -> None:
        _require(isinstance(dtype, np.dtype) and id(dtype) not in self._fresh, "an array without a dtype")
        _require(not dtype.hasobject or objects, "raw bytes in place of Python objects")
        _require(
            isinstance(shape, tuple) and all(type(n) is int and 0 <= n < 2**62 for n in shape),
            "a damaged shape",
        )
        count = 1
        for n in shape:
            count *= n
        _require(dtype.itemsize > 0 or count <= 1, "an array of nothing")
        _require(
            count * dtype.itemsize == nbytes, f"an array of shape {short(shape)} but {nbytes} bytes of data"
        )

    def _set_dtype(self, dtype: Any, state: Any) -> None:
        _require(isinstance(state, tuple) and len(state) >= 8, "a damaged dtype")
        _, order, base, names, fields, itemsize = state[:6]
        order = order.decode("ascii") if isinstance(order, bytes) else order
        _require(order in ("<", ">", "|", "="), "a damaged dtype")
        if base is not None:
            safe = np.dtype(self._sub_array(base))
        elif names is not None:
            safe = np.dtype(self._record(names, fields, itemsize))
        else:
            safe = dtype.newbyteorder(order) if order != "|" else dtype
        code, own = safe.__reduce__()[1][0], safe.__reduce__()[2]
        same = type(safe) is type(dtype) and np.dtype(code).itemsize == dtype.itemsize
        _require(same, "a dtype of two kinds or sizes")
        dtype.__setstate__(own)

    def _sub_array(self, base: Any) -> Any:
        _require(isinstance(base, tuple) and len(base) == 2, "a damaged dtype")
        self._check_part(base[0])
        return base

    def _record(self, names: Any, fields: Any, itemsize: Any) -> Any:
        _require(isinstance(names, tuple) and isinstance(fields, dict), "a damaged dtype")
        parts = [fields.get(name) for name in names]
        for part in parts:
            _require(isinstance(part, tuple) and len(part) >= 2, "a damaged dtype")
            self._check_part(part[0])  # type: ignore[index]
        text = [name.decode("latin1") if isinstance(name, bytes) else name for name in names]
        return {
            "names": text,
            "formats": [part[0] for part in parts],  # type: ignore[index]
            "offsets": [part[1] for part in parts],  # type: ignore[index]
            "itemsize": itemsize,
        }

    def _check_part(self, part: Any) -> None:
        known = isinstance(part, np.dtype) and id(part) not in self._fresh and not part.hasobject
        _require(known, "a compound dtype with a part that is no plain dtype")


def _no_call(*_: Any) -> NoReturn:
    raise _Refused("calls a name that may only be named")


def _container(kind: type) -> Builder:
    """`kind()` or `kind(list)`; members of a set must be flat."""

    def build(items: Any = ()) -> Any:
        _require(isinstance(items, (list, tuple)), f"a damaged {kind.__name__}")
        if kind in (set, frozenset):
            for item in items:
                _check_key(item)
        return kind(items)

    return build


def _ordered_dict(pairs: Any = ()) -> Any:
    _require(isinstance(pairs, (list, tuple)), "a damaged OrderedDict")
    for pair in pairs:
        _require(isinstance(pair, (list, tuple)) and len(pair) == 2, "a damaged OrderedDict")
        _check_key(pair[0])
    return OrderedDict(pairs)


def _encode(text: Any, encoding: Any = "latin1") -> Any:
    """How protocols 0 to 2 write bytes."""
    _require(isinstance(text, str) and encoding in ("latin1", "latin-1"), "damaged bytes")
    return text.encode("latin1")


def _bytes(kind: type) -> Builder:
    def build(value: Any = b"", encoding: Any = None) -> Any:
        if isinstance(value, str):
            value = _encode(value, encoding)
        # No whole number: bytes(10**12) is a request for memory.
        _require(isinstance(value, (bytes, bytearray, list)), f"a damaged {kind.__name__}")
        return kind(value)

    return build


def _complex(real: Any, imag: Any) -> complex:
    _require(isinstance(real, (int, float)) and isinstance(imag, (int, float)), "a damaged complex number")
    return complex(real, imag)


_BUILTIN: dict[str, Builder] = {
    "set": _container(set),
    "frozenset": _container(frozenset),
    "list": _container(list),
    "tuple": _container(tuple),
    "bytes": _bytes(bytes),
    "bytearray": _bytes(bytearray),
    "complex": _complex,
}
_NAMES: dict[str, Builder] = {
    "collections.OrderedDict": _ordered_dict,
    "_codecs.encode": _encode,
    **{f"builtins.{name}": builder for name, builder in _BUILTIN.items()},
    **{f"__builtin__.{name}": builder for name, builder in _BUILTIN.items()},
}


class _Unpickler(pickle._Unpickler):
    """Python's own interpreter of pickle programs with every call and every name under our control."""

    dispatch: ClassVar[dict[int, Callable[..., None]]] = dict(pickle._Unpickler.dispatch)  # type: ignore[assignment]
    stack: list[Any]
    memo: dict[int, Any]

    def __init__(
        self,
        reader: _Reader,
        *,
        names: Mapping[str, Builder],
        values: Mapping[str, Any],
        stand_ins: tuple[type, ...],
        arrays: _NumpyBuilders,
        persistent: Callable[[Any], Any] | None,
        encoding: str,
    ) -> None:
        super().__init__(reader, fix_imports=False, encoding=encoding)  # type: ignore[arg-type]
        self._names, self._values = names, values
        self._stand_ins, self._arrays, self._persistent = stand_ins, arrays, persistent

    def find_class(self, module: str, name: str, /) -> Any:
        full = f"{module}.{name}"
        if full in self._values:
            return self._values[full]
        if full not in self._names:
            raise _Unsafe(f"names {short(full)}, which is not allowed")
        return Name(full, self._names[full])

    def get_extension(self, code: int) -> NoReturn:
        # Python's registry of extension codes has a cache that goes around find_class.
        raise _Unsafe(f"uses the extension code {code}, which is not allowed")

    def persistent_load(self, pid: Any) -> Any:
        if self._persistent is None:
            raise _Refused("refers to data outside itself (a persistent id)")
        return self._persistent(pid)

    def _call(self, name: Any, args: Any, keywords: Any = MappingProxyType({})) -> Any:
        if not isinstance(name, Name) or not isinstance(args, tuple) or keywords:
            raise _Unsafe(f"calls something that is no allowed name ({short(type(name).__name__)})")
        return name._builder(*args)

    def load_reduce(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = self._call(self.stack[-1], args)

    def load_newobj_ex(self) -> None:
        keywords = self.stack.pop()
        args = self.stack.pop()
        self.stack[-1] = self._call(self.stack[-1], args, keywords)

    def _instantiate(self, klass: Any, args: Any) -> None:
        # Reached from INST and OBJ, the calls of protocols 0 and 1.
        self.append(self._call(klass, tuple(args)))  # type: ignore[attr-defined]

    def load_build(self) -> None:
        state = self.stack.pop()
        instance = self.stack[-1]
        if isinstance(instance, (np.ndarray, np.dtype)):
            self._arrays.set_state(instance, state)
        elif isinstance(instance, self._stand_ins) and hasattr(instance, "__setstate__"):
            instance.__setstate__(state)
        elif not (type(instance) is OrderedDict and not state):
            raise _Refused(f"sets the state of a {type(instance).__name__}")

    def load_append(self) -> None:
        value = self.stack.pop()
        self._top(list).append(value)

    def load_appends(self) -> None:
        items = self.pop_mark()  # type: ignore[attr-defined]
        self._top(list).extend(items)

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _check_key(key)
        self._top(dict)[key] = value

    def load_setitems(self) -> None:
        items = self.pop_mark()  # type: ignore[attr-defined]
        self._fill(self._top(dict), items)

    def load_dict(self) -> None:
        items = self.pop_mark()  # type: ignore[attr-defined]
        filled: dict[Any, Any] = {}
        self._fill(filled, items)
        self.stack.append(filled)

    def _fill(self, target: Any, items: list[Any]) -> None:
        _require(len(items) % 2 == 0, "a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            _check_key(key)
            target[key] = value

    def load_additems(self) -> None:
        items = self.pop_mark()  # type: ignore[attr-defined]
        self._top(set).update(_checked_members(items))

    def load_frozenset(self) -> None:
        items = self.pop_mark()  # type: ignore[attr-defined]
        self.stack.append(frozenset(_checked_members(items)))

    def load_bytearray8(self) -> None:
        size = int.from_bytes(self.read(8), "little")  # type: ignore[attr-defined]
        self.stack.append(bytearray(self.read(size)))  # type: ignore[attr-defined]

    def _top(self, kind: type) -> Any:
        if not isinstance(self.stack[-1], kind):
            raise _Refused(f"fills a {type(self.stack[-1]).__name__} as if it were a {kind.__name__}")
        return self.stack[-1]

    for _code, _method in (
        (pickle.REDUCE, load_reduce),
        (pickle.NEWOBJ, load_reduce),
        (pickle.NEWOBJ_EX, load_newobj_ex),
        (pickle.BUILD, load_build),
        (pickle.APPEND, load_append),
        (pickle.APPENDS, load_appends),
        (pickle.SETITEM, load_setitem),
        (pickle.SETITEMS, load_setitems),
        (pickle.DICT, load_dict),
        (pickle.ADDITEMS, load_additems),
        (pickle.FROZENSET, load_frozenset),
        (pickle.BYTEARRAY8, load_bytearray8),
    ):
        dispatch[_code[0]] = _method
    del _code, _method


def _checked_members(items: list[Any]) -> list[Any]:
    for item in items:
        _check_key(item)
    return items


def restricted_load(
    file: StrPath | IO[bytes],
    *,
    allow: Mapping[str, Builder] = _NOTHING_MORE,
    tensors: bool = False,
    persistent_load: Callable[[Any], Any] | None = None,
    encoding: str = "ASCII",
) -> Any:
    """Read a pickle without running anything that it asks for.

    What it may hold: numbers, text, bytes, lists, tuples, dicts, sets with flat keys, `OrderedDict`, numpy
    arrays, scalars and dtypes (written by numpy 1 or 2, any protocol); everything else ends the reading. A
    class that is only mentioned stays an inert name whose `str` is "module.class".

    Args:
        file: a path, or an open binary file.
        allow: further names, "module.name" -> what to call in its place with the pickled arguments. If that
            is a class with `__setstate__`, the pickled state is handed to it. The named object itself is
            never imported.
        tensors: also rebuild torch tensors, parameters, dtypes and sizes (imports torch).
        persistent_load: called for each persistent id, such as the tuples by which torch names its storages;
            without it such ids end the reading.
        encoding: of the texts in Python 2 pickles: "latin1" suits numpy arrays, "bytes" keeps them raw.

    Raises:
        UnsafePickleError: a name or call that is not allowed (a `UserInputError`); names file and cause.
        UserInputError: damaged or truncated.

    Example:
        >>> import io, pickle
        >>> restricted_load(io.BytesIO(pickle.dumps({"labels": [3, 1]})))
        {'labels': [3, 1]}
        >>> restricted_load(io.BytesIO(pickle.dumps(print)))
        Traceback (most recent call last):
        ...
        tenfold.io.pickles.UnsafePickleError: <file>: pickle: names builtins.print, which is not allowed
    """
    path, data = _content(file)
    arrays = _NumpyBuilders()
    names, values = {**_NAMES, **arrays.names()}, dict[str, Any]()
    if tensors:
        from tenfold.io import _tensors

        names.update(_tensors.builders())
        values.update(_tensors.values())
    names.update(allow)
    stand_ins = tuple(builder for builder in allow.values() if isinstance(builder, type))
    try:
        return _Unpickler(
            _Reader(data),
            names=names,
            values=values,
            stand_ins=stand_ins,
            arrays=arrays,
            persistent=persistent_load,
            encoding=encoding,
        ).load()
    except (_Unsafe, UnsafePickleError) as error:
        raise UnsafePickleError(f"{path}: pickle: {error}") from error
    except (_Refused, UserInputError) as error:
        bad_file(path, "pickle", str(error), error)
    except MemoryError as error:
        bad_file(path, "pickle", "does not fit into memory", error)
    except Exception as error:  # the interpreter meets damage as any kind of exception
        bad_file(path, "pickle", f"is damaged ({type(error).__name__}: {short(str(error))})", error)


def refused_by_torch(error: pickle.UnpicklingError) -> str | None:
    """What `torch.load(weights_only=True)` refused to name, in its own words; None where the file is damaged."""
    found = re.search(r"GLOBAL \S+|Unsupported (?:global|class)[^\n]*", str(error))
    return short(found[0].rstrip(".")) if found else None


def _content(file: StrPath | IO[bytes]) -> tuple[StrPath, bytes]:
    if isinstance(file, (str, Path)) or hasattr(file, "__fspath__"):
        return file, read_file(file)
    stream: Any = file
    name = getattr(stream, "name", None)
    return (name if isinstance(name, str) else "<file>"), stream.read()
