"""Why a submission fails: stable codes, the exception that carries one, and how the words of strangers are shown in it."""

import contextlib
import errno
from collections.abc import Iterator

from src.common.cli import UserError
from src.submission import bounds

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
    "wrong_output": "gave no images of the expected shape, or broke the protocol",
    "crashed": "its own code ended in an error",
    "grader_error": "a fault of the grader or its machine, not of the submission",
}
# of an OSError that says something of the machine, and nothing of a submission
FAULTS = {getattr(errno, name, 0) for name in ("ENOSPC", "EDQUOT", "EROFS", "EIO", "ESTALE", "EMFILE", "ENFILE")}


class Failed(UserError):
    """A submission fails for the reason `code`, one of CODES; `text` is one line that says what was found, for everyone.

    private: what only the team should read, as the message of an exception, in which anything may stand.
    """

    def __init__(self, code: str, text: str, private: str = ""):
        if code not in CODES:
            raise ValueError(f"unknown code {code!r}; expected one of {', '.join(CODES)}")
        self.code, self.text, self.private = code, one_line(text), private[: bounds.PRIVATE_LENGTH]
        self.reason = f"{code}: {self.text}"
        super().__init__(self.reason)


def one_line(text: object, length: int = bounds.TEXT_LENGTH) -> str:
    """Text of strangers made fit to show: one line of printable characters, at most so many of them."""
    text = " ".join(str(text)[: 4 * bounds.TEXT_LENGTH].split())
    text = "".join(character if character.isprintable() else "?" for character in text)
    return text if len(text) <= length else text[: length - 3] + "..."


def quoted(text: object, length: int = bounds.QUOTED_LENGTH) -> str:
    """What a stranger has written, between quotes that it cannot close, and at most so long."""
    inside = str(text).translate(dict.fromkeys(range(0x201C, 0x2020), '"'))
    return f"\u201c{one_line(inside, length)}\u201d"


@contextlib.contextmanager
def blamed(code: str, what: str, wrong: str) -> Iterator[None]:
    """Whatever breaks inside fails the submission with this code and says that `what` is `wrong`.

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
