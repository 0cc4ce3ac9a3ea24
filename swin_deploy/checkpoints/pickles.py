"""The values of a pickle, with inert stand-ins for whatever it would import, call or set.

A pickle is a program. Its instructions are followed here by a machine of our own, which knows no
modules: a class or function is its name, a call is a record of the name and the arguments, and
the state of an object is kept beside it. Nothing is imported, called, hashed deeply or printed.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any

MOST_STEPS = 500_000  # instructions; the weights of the largest Swin take 10,000
SCALARS = (str, bytes, int, float, type(None))
MOST_LETTERS = 2000  # of the name of an import, which is made of two texts
MOST_KEYS = 8  # entries of a tuple that is a key of a dict
MOST_INTEGER = 1 << 60  # of a key: larger ones take long to hash, or have the hash of others
MARK_NEEDED = "an instruction takes more than there is"


@dataclass(eq=False, slots=True)
class Inert:
    """The stand-in of a class, a function or an object, which does nothing.

    Attributes:
        name: Full name of the class or function, such as ``argparse.Namespace``.
        made: True for what a call of it gives, False for the class or function itself.
        args: Arguments of that call.
        state: Argument of the last ``BUILD``, usually the attributes by name; None without one.
        items: Items that were set, in order: those of a dict.
        entries: Entries that were added, in order: those of a list or set.
    """

    name: str
    made: bool = False
    args: tuple[Any, ...] = ()
    state: Any = None
    items: list[tuple[Any, Any]] = field(default_factory=list)
    entries: list[Any] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class Stored:
    """The stand-in of a value that a pickle keeps outside: a storage of ``torch.save``.

    Attributes:
        pid: Persistent id, as the pickle gives it.
    """

    pid: Any


@dataclass(frozen=True)
class Pickle:
    """The content of one pickle.

    Attributes:
        value: The value, of plain types, ``Inert`` and ``Stored``; it may contain itself.
        names: Names of its imports, such as ``torch._utils._rebuild_tensor_v2``, each once.
        stored: Stand-ins of what is kept outside, in order.
        protocol: Highest protocol that it names; 0 for 0 and 1.
        odd_keys: Number of keys in dicts and sets that became stand-ins.
    """

    value: Any
    names: tuple[str, ...]
    stored: tuple[Stored, ...]
    protocol: int = 0
    odd_keys: int = 0


class TooLargeError(ValueError):
    """A file that asks for more than weights need."""


def read_pickle(stream: IO[bytes]) -> Pickle:
    """Read the pickle at a stream's position, and leave the stream after it.

    Args:
        stream: The stream to read; any protocol.

    Raises:
        TooLargeError: If it has more instructions than weights need.
        ValueError, LookupError, TypeError: If it is damaged.
    """
    machine = _Machine()
    for step, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if step >= MOST_STEPS:
            raise TooLargeError(f"a pickle of more than {MOST_STEPS:,} instructions")
        if opcode.name != "STOP":
            machine.follow(opcode.name, argument)
    return Pickle(
        machine.stack.pop(),
        tuple(machine.names),
        tuple(machine.stored),
        machine.protocol,
        machine.odd_keys,
    )


@dataclass
class _Machine:
    """The stack and the memo of an unpickler."""

    stack: list[Any] = field(default_factory=list)
    below: list[list[Any]] = field(default_factory=list)  # stacks under the marks
    memo: dict[int, Any] = field(default_factory=dict)
    names: dict[str, None] = field(default_factory=dict)
    stored: list[Stored] = field(default_factory=list)
    protocol: int = 0
    odd_keys: int = 0

    def follow(self, name: str, argument: Any) -> None:  # noqa: ANN401 - of any instruction
        """Follow one instruction."""
        if name in CONSTANTS:
            self.stack.append(CONSTANTS[name]())
        elif name in ACTIONS:
            ACTIONS[name](self, argument)
        elif name not in IGNORED:
            # Numbers and texts, which pickletools has decoded.
            if not isinstance(argument, str | bytes | bytearray | int | float):
                raise ValueError(f"instruction {name}")
            self.stack.append(argument)

    def push_name(self, name: str) -> None:
        """Push the stand-in of a class or function."""
        self.names[name] = None
        self.stack.append(Inert(name))

    def since_mark(self) -> list[Any]:
        """Take everything above the last mark, and the mark."""
        taken, self.stack = self.stack, self.below.pop()
        return taken

    def top(self, kind: type | tuple[type, ...]) -> Any:  # noqa: ANN401 - of that type
        """Return the uppermost value, which must be of a type."""
        if not isinstance(self.stack[-1], kind):
            raise TypeError(f"a {type(self.stack[-1]).__name__} cannot be added to")
        return self.stack[-1]

    def key(self, key: object) -> object:
        """Return a key as ``safe_key`` does, and count those that became stand-ins."""
        safe = safe_key(key)
        self.odd_keys += safe is not key
        return safe

    def call(self, function: object, args: object) -> None:
        """Push a record of a call; nothing is called."""
        if not isinstance(function, Inert) or function.made or not isinstance(args, tuple):
            raise ValueError("a call of what is not a function")
        self.stack.append(Inert(function.name, made=True, args=args))


def _set_items(machine: _Machine, pairs: list[Any]) -> None:
    if len(pairs) % 2:
        raise ValueError(MARK_NEEDED)
    target = machine.top((dict, Inert))
    items = zip(pairs[::2], pairs[1::2], strict=True)
    if isinstance(target, dict):
        target.update((machine.key(key), value) for key, value in items)
    else:
        target.items += items


def safe_key(key: object) -> object:
    """Return a key of a dict or set; what may take long to hash becomes a stand-in."""
    parts = key if isinstance(key, tuple) and len(key) <= MOST_KEYS else (key,)
    short = all(abs(part) < MOST_INTEGER for part in parts if isinstance(part, int))
    plain = short and all(isinstance(part, SCALARS) for part in parts)
    return key if plain else Inert(type(key).__name__)


def _append(machine: _Machine, values: list[Any]) -> None:
    target = machine.top((list, Inert))
    (target if isinstance(target, list) else target.entries).extend(values)


def _add(machine: _Machine, values: list[Any]) -> None:
    target = machine.top((set, Inert))
    if isinstance(target, set):
        target.update(map(machine.key, values))
    else:
        target.entries += values


def _protocol(machine: _Machine, number: int) -> None:
    machine.protocol = max(machine.protocol, number)


def _mark(machine: _Machine, _: object) -> None:
    machine.below.append(machine.stack)
    machine.stack = []


def _pop(machine: _Machine, _: object) -> None:
    if machine.stack:
        machine.stack.pop()
    else:
        machine.since_mark()  # as Python does: POP may take a mark


def _pop_mark(machine: _Machine, _: object) -> None:
    machine.since_mark()


def _tuple(count: int) -> Callable[[_Machine, object], None]:
    def make(machine: _Machine, _: object) -> None:
        if len(machine.stack) < count:
            raise ValueError(MARK_NEEDED)
        machine.stack[-count:] = [tuple(machine.stack[-count:])]

    return make


def _from_mark(make: Callable[[list[Any]], Any]) -> Callable[[_Machine, object], None]:
    def push(machine: _Machine, _: object) -> None:
        made = make(machine.since_mark())
        machine.stack.append(made)

    return push


def _frozen_set(machine: _Machine, _: object) -> None:
    values = machine.since_mark()
    machine.stack.append(frozenset(map(machine.key, values)))


def _dict(machine: _Machine, _: object) -> None:
    pairs = machine.since_mark()
    machine.stack.append({})
    _set_items(machine, pairs)


def _put(machine: _Machine, argument: int | None) -> None:
    machine.memo[len(machine.memo) if argument is None else argument] = machine.stack[-1]


def _global(machine: _Machine, argument: str) -> None:
    machine.push_name(argument.replace(" ", ".", 1))


def _stack_global(machine: _Machine, _: object) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    if not (isinstance(name, str) and isinstance(module, str)):
        raise ValueError("an import without a name")  # noqa: TRY004 - damage
    if len(module) + len(name) > MOST_LETTERS:
        raise TooLargeError(f"an import with a name of {len(module) + len(name):,} letters")
    machine.push_name(f"{module}.{name}")


def _instance(machine: _Machine, argument: str) -> None:
    args = tuple(machine.since_mark())
    _global(machine, argument)
    machine.call(machine.stack.pop(), args)


def _object(machine: _Machine, _: object) -> None:
    kind, *args = machine.since_mark()
    machine.call(kind, tuple(args))


def _reduce(machine: _Machine, _: object) -> None:
    args, function = machine.stack.pop(), machine.stack.pop()
    machine.call(function, args)


def _new_with_names(machine: _Machine, _: object) -> None:
    names = machine.stack.pop()
    _reduce(machine, None)
    machine.stack[-1].args += (names,)


def _build(machine: _Machine, _: object) -> None:
    state = machine.stack.pop()
    machine.top(Inert).state = state


def _extension(machine: _Machine, argument: int) -> None:
    machine.push_name(f"copyreg extension {argument}")


def _persistent(machine: _Machine, pid: object) -> None:
    if isinstance(pid, tuple) and len(pid) > 1 and pid[0] == "module":
        machine.stack.append(pid[1])  # torch.save's legacy form keeps sources of classes so
    else:
        machine.stored.append(Stored(pid))
        machine.stack.append(machine.stored[-1])


CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_SET": set,
    "EMPTY_TUPLE": tuple,
}
IGNORED = frozenset({"FRAME"})
ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": _protocol,
    "MARK": _mark,
    "POP": _pop,
    "POP_MARK": _pop_mark,
    "DUP": lambda machine, _: machine.stack.append(machine.stack[-1]),
    "APPEND": lambda machine, _: _append(machine, [machine.stack.pop()]),
    "APPENDS": lambda machine, _: _append(machine, machine.since_mark()),
    "ADDITEMS": lambda machine, _: _add(machine, machine.since_mark()),
    "SETITEM": lambda machine, _: _set_items(machine, [machine.stack.pop() for _ in "kv"][::-1]),
    "SETITEMS": lambda machine, _: _set_items(machine, machine.since_mark()),
    "LIST": _from_mark(list),
    "TUPLE": _from_mark(tuple),
    "FROZENSET": _frozen_set,
    "DICT": _dict,
    **{f"TUPLE{count}": _tuple(count) for count in (1, 2, 3)},
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _put),
    **dict.fromkeys(
        ("GET", "BINGET", "LONG_BINGET"),
        lambda machine, argument: machine.stack.append(machine.memo[argument]),
    ),
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    "INST": _instance,
    "OBJ": _object,
    "REDUCE": _reduce,
    "NEWOBJ": _reduce,
    "NEWOBJ_EX": _new_with_names,
    "BUILD": _build,
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), _extension),
    "PERSID": _persistent,
    "BINPERSID": lambda machine, _: _persistent(machine, machine.stack.pop()),
}
