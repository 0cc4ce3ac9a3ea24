"""The imports and the memory of a pickle, found from its instructions without running them.

PyTorch's reader (``weights_only=True``) runs no code, but makes whatever a file asks for: a text
that doubles forty times, or a tuple that holds another twice, sixty deep, and takes years to hash.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass, field
from typing import IO, Any

MOST_STEPS = 500_000  # instructions; the weights of the largest Swin take 10,000
MOST_SIZE = 1 << 26  # bytes of one value if nothing in it is shared
# A call may return more than it is given: text in UTF-32 is the most that the reader lets through.
GROWTH = 4
CALLS = frozenset({"BUILD", "INST", "NEWOBJ", "NEWOBJ_EX", "OBJ", "REDUCE"})
PUTS = frozenset({"BINPUT", "LONG_BINPUT", "MEMOIZE", "PUT"})
GETS = frozenset({"BINGET", "GET", "LONG_BINGET"})
MARK = (0, "mark")  # told from other entries by identity

# A value in its place on the stack: its size, and itself where it is a number, a text or a tuple.
Entry = tuple[int, Any]


@dataclass(frozen=True)
class Look:
    """The imports and storages that a pickle asks for.

    Attributes:
        protocol: Protocol of the pickle.
        names: Names of its imports, such as ``torch._utils._rebuild_tensor_v2``, each once.
        storage_items: Number of values in the storages of its tensors, each storage once.
    """

    protocol: int
    names: tuple[str, ...]
    storage_items: int


class TooLargeError(ValueError):
    """A pickle that asks for more than weights need."""


def look_at(stream: IO[bytes]) -> Look:
    """Look at the pickle at a stream's position, and leave the stream after it.

    Args:
        stream: The stream to read.

    Raises:
        TooLargeError: If it has more instructions than weights need, or would make a larger value.
        ValueError, LookupError: If it is damaged.
    """
    machine = _Machine()
    for step, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if step >= MOST_STEPS:
            raise TooLargeError(f"a pickle of more than {MOST_STEPS:,} instructions")
        machine.follow(opcode, argument)
    return Look(machine.protocol, tuple(machine.names), sum(machine.storages.values()))


@dataclass
class _Machine:
    """The stack and the memo of an unpickler, with sizes in place of values."""

    stack: list[Entry] = field(default_factory=list)
    memo: dict[int, Entry] = field(default_factory=dict)
    names: dict[str, None] = field(default_factory=dict)
    storages: dict[str, int] = field(default_factory=dict)
    protocol: int = 0

    def follow(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:  # noqa: ANN401
        """Take an instruction's operands off the stack, and push its result."""
        if opcode.name == "PROTO":
            self.protocol = max(self.protocol, argument)
        elif opcode.name == "MARK":
            self.stack.append(MARK)
        elif opcode.name in PUTS:
            self.memo[len(self.memo) if argument is None else argument] = self.stack[-1]
        elif opcode.name in GETS:
            self.stack.append(self.memo[argument])
        else:
            self._apply(opcode, argument)

    def _apply(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:  # noqa: ANN401
        taken = self._operands(opcode.stack_before)
        values = tuple(value for _, value in taken)
        self._note(opcode.name, argument, values)
        own = len(argument) if isinstance(argument, str | bytes | bytearray) else 0
        size = (1 + own + sum(size for size, _ in taken)) * (GROWTH if opcode.name in CALLS else 1)
        if size > MOST_SIZE:
            raise TooLargeError(f"a value of more than {MOST_SIZE >> 20} MB in its pickle")
        made = (size, values if "TUPLE" in opcode.name else argument)
        self.stack.extend(made for _ in opcode.stack_after)

    def _operands(self, before: list[pickletools.StackObject]) -> list[Entry]:
        """Pop an instruction's operands; return them in the order in which they were pushed."""
        taken: list[Entry] = []
        count = len(before)
        if pickletools.markobject in before:
            count = before.index(pickletools.markobject)
            while (top := self.stack.pop()) is not MARK:
                taken.append(top)
        taken += [self.stack.pop() for _ in range(count)]
        if any(entry is MARK for entry in taken):
            raise ValueError("an instruction takes more than there is")
        return taken[::-1]

    def _note(self, name: str, argument: Any, values: tuple[Any, ...]) -> None:  # noqa: ANN401
        """Keep the name of an import, and the length of a storage."""
        if name in ("GLOBAL", "INST"):
            self.names[argument.replace(" ", ".", 1)] = None
        elif name == "STACK_GLOBAL":
            self.names[".".join(part if isinstance(part, str) else "?" for part in values)] = None
        elif name == "BINPERSID" and isinstance(values[0], tuple) and len(values[0]) > 4:
            key, items = values[0][2], values[0][4]  # ("storage", type, key, device, values)
            if isinstance(key, str) and isinstance(items, int):
                self.storages[key] = items
