"""What is wrong with annotations: counted by kind, with the first of each kind in words."""

from dataclasses import asdict, dataclass
from typing import Any

from densevit.errors import UserError


@dataclass(kw_only=True)
class Fault:
    """One kind of fault. `fatal`: what it stands for is lost or wrong; else a documented rule has dealt with it."""

    kind: str
    fatal: bool
    count: int = 0
    first: str = ""
    """The sentence of the first occurrence."""


class Faults:
    """The faults of one data set; small, however many there are."""

    def __init__(self) -> None:
        self._by_kind: dict[str, Fault] = {}

    def add(self, kind: str, sentence: str, *, fatal: bool = True) -> None:
        """Note one occurrence; of each kind only the first `sentence` is kept."""
        fault = self._by_kind.setdefault(kind, Fault(kind=kind, fatal=fatal, first=sentence))
        fault.count += 1

    def count(self, kind: str) -> int:
        return self._by_kind[kind].count if kind in self._by_kind else 0

    def sentences(self, *, fatal: bool) -> list[str]:
        """One sentence for each kind of fault, fatal or not."""
        return [
            fault.first if fault.count == 1 else f"{fault.kind}: {fault.count} in all, first: {fault.first}"
            for fault in self._by_kind.values()
            if fault.fatal is fatal
        ]

    def to_list(self) -> list[dict[str, Any]]:
        """Plain JSON types."""
        return [asdict(fault) for fault in self._by_kind.values()]

    def refuse(self, source: object) -> None:
        """UserError with the first fatal fault, if there is one, and how many more there are."""
        fatal = [fault for fault in self._by_kind.values() if fault.fatal]
        if not fatal:
            return
        more = sum(fault.count for fault in fatal) - 1
        rest = f" (and {more} more faults; `densevit data check` lists them, strict=False leaves them out)"
        raise UserError(f"{source}: {fatal[0].first}{rest if more else ''}")
