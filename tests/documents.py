"""What a document has its reader do: files to write, and commands."""

import re

from src.common.files import PROJECT_ROOT


def files_in(document: str) -> dict[str, str]:
    """The files that a document has its reader write: a line with the name, then the content."""
    text = (PROJECT_ROOT / "docs" / document).read_text()
    return dict(re.findall(r"\n`([\w/]+\.py)`:\n\n```python\n(.*?)```", text, re.DOTALL))


def steps_in(document: str) -> list[str]:
    """The arguments of the commands in a document's blocks, in their order, without `python` and remarks."""
    blocks = re.findall(r"\n\n```\n(.*?)```", (PROJECT_ROOT / "docs" / document).read_text(), re.DOTALL)
    lines = [line.partition(" #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line.removeprefix("python ") for line in lines if line.startswith("python ")]
