"""Why a submission fails: stable codes, the exception that carries one, and how the words of strangers are shown in it."""

import contextlib
import errno
from collections.abc import Iterator

from src.common.cli import UserError

CODES = {
    "unsafe_archive": "paths out of the folder, links, or too many or too large files",
    "missing_file": "a file that every submission needs is absent or unreadable",
    "unsafe_pickle": "the checkpoint holds more than tensors",
    "bad_checkpoint": "the checkpoint holds no plain tensors, or too much",
    "wrong_architecture": "the network is not the challenge's",
    "stored_images": "images are copies, of each other or of the validation images",
    "too_many_calls": "more network calls than the NFE, or calls outside of sampling",
    "seed_tuned": "the public seed scores far better than secret ones",
    "process_limit": "tried to start processes, or too many threads",
    "memory_limit": "took more memory than allowed",
    "disk_limit": "wrote more than allowed",
    "time_limit": "took more time than allowed",
    "wrong_output": "gave no images of the shape asked for, or broke the protocol",
    "crashed": "its own code ended in an error",
    "grader_error": "a fault of the grader or its machine, not of the submission",
}
TEXT_LENGTH, QUOTED_LENGTH, PRIVATE_LENGTH = 300, 60, 2000
# of an OSError that says something of the machine, and nothing of a submission
FAULTS = {getattr(errno, name, 0) for name in ("ENOSPC", "EDQUOT", "EROFS", "EIO", "ESTALE", "EMFILE", "ENFILE")}


class Failed(UserError):
    """A submission fails for the reason `code`, one of CODES; `text` is one line that says what was found, for everyone.

    private: what only the team should read, as the message of an exception is, in which anything may stand.
    """

    def __init__(self, code: str, text: str, private: str = ""):
        if code not in CODES:
            raise ValueError(f"unknown code {code!r}; expected one of {', '.join(CODES)}")
        self.code = code
        self.text = one_line(text)
        self.private = private[:PRIVATE_LENGTH]
        super().__init__(self.reason)

    @property
    def reason(self) -> str:
        return f"{self.code}: {self.text}"


def one_line(text: str) -> str:
    """Text of strangers made fit to show: one line of printable characters, at most TEXT_LENGTH of them."""
    text = " ".join(str(text)[: 4 * TEXT_LENGTH].split())
    text = "".join(character if character.isprintable() else "?" for character in text)
    return text if len(text) <= TEXT_LENGTH else text[: TEXT_LENGTH - 3] + "..."


def quoted(text: object, length: int = QUOTED_LENGTH) -> str:
    """What a stranger has written, as such: between quotes, which it cannot close, and at most so long."""
    line = one_line(str(text).translate({ord(mark): '"' for mark in "\u201c\u201d\u201e\u201f"}))
    return f"\u201c{line if len(line) <= length else line[: length - 3] + '...'}\u201d"


@contextlib.contextmanager
def blamed(code: str, what: str, wrong: str) -> Iterator[None]:
    """Whatever breaks inside fails the submission with this code: a stranger's bytes may raise anything. It says that `what` is
    `wrong`, and the kind of exception.

    For want of memory it is a memory_limit. Failed itself goes through, and so do the machine's own faults (FAULTS).
    """
    try:
        yield
    except Failed:
        raise
    except MemoryError as error:
        raise Failed("memory_limit", f"{what} takes more memory than allowed", str(error)) from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno in FAULTS:
            raise
        raise Failed(code, f"{what} {wrong} ({type(error).__name__})", str(error)) from error
