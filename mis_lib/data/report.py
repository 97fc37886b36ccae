"""The report of a preflight: what was looked at, what was found, what the rows will cost."""

from mis_lib.data.findings import Finding, Level
from mis_lib.data.memory import MEMORY_FORMULA, Memory
from mis_lib.schema import Record


class RowTokens(Record):
    """What one row costs."""

    file: str
    row: int
    id: str
    images: int
    image_tokens: int
    text_tokens: int

    @property
    def total(self) -> int:
        """Image and text tokens."""
        return self.image_tokens + self.text_tokens


class Tokens(Record):
    """What all rows cost."""

    model: str
    exact: bool
    """Whether texts were counted by the model's own tokenizer and template; otherwise estimated."""
    limit: int | None
    rows: list[RowTokens]

    def worst(self, number: int) -> list[RowTokens]:
        """The longest rows, longest first."""
        return sorted(self.rows, key=lambda row: (-row.total, row.file, row.row))[:number]


class FileSummary(Record):
    """How much one data file holds."""

    name: str
    rows: int
    forms: list[str]
    cot: bool
    """Whether its harmful rows are mostly answered at length."""


class Report(Record):
    """What was found."""

    path: str
    files: list[FileSummary]
    images: int
    """Different image files looked at."""
    findings: list[Finding]
    tokens: Tokens | None = None
    memory: Memory | None = None
    memory_formula: str = MEMORY_FORMULA
    seconds: float = 0.0

    @property
    def rows(self) -> int:
        """Rows of all files."""
        return sum(file.rows for file in self.files)

    @property
    def ready(self) -> bool:
        """Whether training may start: no error was found."""
        return not any(finding.level is Level.ERROR for finding in self.findings)
