"""What a submission's code can read in the sandbox: images could hide there, so all of it together is small.

That is the student's own code, with its comments; the names of all files, empty ones too; model_config.json; names, types and
shapes of the checkpoint's tensors. The values of the small tensors have a bound of their own: see weights.EXTRA_BYTES.
"""

import ast
import json
import zlib
from pathlib import Path
from typing import Any

from src.common.checkpoints import MODEL_CONFIG
from src.submission.failures import Failed
from src.submission.manifest import is_kit_file
from src.submission.weights import Weights

LITERAL_BYTES = 4096  # one text or bytes literal of the code
LITERAL_ITEMS = 2000  # constants in one list, tuple, set or dict
READABLE_BYTES = 64 << 10  # of everything, compressed
FILE_BYTES = 1 << 20


def check_readable(folder: Path, names: list[str], config: dict[str, Any], weights: Weights) -> int:
    """The compressed bytes of what the code in folder, its Python files `names`, could read beside the kit's own.

    Raises Failed where they are more than READABLE_BYTES, and for single files, texts and lists that are too large.
    """
    tensors = [
        (name, str(tensor.dtype), *tensor.shape) for part in (weights.extras, weights.zeros) for name, tensor in part.items()
    ]
    parts = {
        "the code": b"".join(_own_code(folder, name) for name in names),
        "the names of files": "\n".join(names).encode(),
        MODEL_CONFIG: json.dumps(config).encode(),
        "the names of tensors": json.dumps([list(weights.networks), tensors]).encode(),
    }
    total = len(zlib.compress(b"\0".join(parts.values()), 9))
    if total > READABLE_BYTES:
        largest = max(parts, key=lambda part: len(zlib.compress(parts[part], 9)))
        raise Failed(
            "stored_images",
            f"what the code can read takes {total:,} bytes compressed, at most {READABLE_BYTES:,} are allowed; most of it is "
            f"{largest}",
        )
    return total


def _own_code(folder: Path, name: str) -> bytes:
    """The content of a Python file, none if it is a file of the kit. Raises Failed where it holds data."""
    if is_kit_file(folder / name):
        return b""
    data = (folder / name).read_bytes()
    if len(data) > FILE_BYTES:
        raise Failed("stored_images", f"{name} has {len(data):,} bytes of code, at most {FILE_BYTES:,} are allowed")
    try:
        tree = ast.parse(data)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise Failed("crashed", f"{name} is not Python ({error})") from error
    for node in ast.walk(tree):
        size = _literal_size(node)
        if size:
            raise Failed("stored_images", f"{name}, line {node.lineno}: a literal of {size}")
    return data


def _literal_size(node: ast.AST) -> str:
    """How large a literal is that is too large for code, in words; empty for all others."""
    if isinstance(node, ast.Constant) and isinstance(node.value, (str, bytes)) and len(node.value) > LITERAL_BYTES:
        return f"{len(node.value)} characters"
    if isinstance(node, ast.Constant) and isinstance(node.value, int) and node.value.bit_length() > 8 * LITERAL_BYTES:
        return f"{node.value.bit_length()} bits"
    items = len(node.elts) if isinstance(node, (ast.List, ast.Tuple, ast.Set)) else 0
    items = len(node.values) if isinstance(node, ast.Dict) else items
    return f"{items} items" if items > LITERAL_ITEMS else ""
