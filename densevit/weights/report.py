"""What happened to every tensor when weights were loaded."""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """Names by what became of them; `print(report)` gives a summary. Whoever loads weights for a user prints it."""

    source: str
    """Where the weights came from, and in which naming they were found."""
    matched: list[str] = field(default_factory=list)
    """The model's tensors that were filled as they were (a conv bias before a norm may be folded into its mean)."""
    resized: list[str] = field(default_factory=list)
    """The model's tensors that were filled after a change of shape, with both shapes."""
    missing: list[str] = field(default_factory=list)
    """The model's tensors the source does not have: they keep the values they had."""
    unexpected: list[str] = field(default_factory=list)
    """The source's tensors the model has no use for (classifiers, a final norm, later blocks)."""

    def __str__(self) -> str:
        lines = [f"weights from {self.source}: {len(self.matched)} matched, {len(self.resized)} resized"]
        lines += [f"  resized: {name}" for name in _shortened(self.resized)]
        for title, names in (("missing (left as they were)", self.missing), ("not used", self.unexpected)):
            if names:
                lines.append(f"  {len(names)} {title}: {', '.join(_shortened(names))}")
        return "\n".join(lines)


def _shortened(names: list[str], *, limit: int = 6) -> list[str]:
    return names if len(names) <= limit else [*names[:limit], f"... and {len(names) - limit} more"]
