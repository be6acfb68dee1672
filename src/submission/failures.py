"""Why a submission fails: stable codes, and the exception that carries one."""

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
TEXT_LENGTH = 300


class Failed(UserError):
    """A submission fails for the reason `code`, one of CODES; `text` is one line that says what was found, for all to read.

    private: words of the submission itself, such as its error's, for the team and the staff alone.
    """

    def __init__(self, code: str, text: str, private: str = ""):
        if code not in CODES:
            raise ValueError(f"unknown code {code!r}; expected one of {', '.join(CODES)}")
        self.code = code
        self.text, self.private = one_line(text), private
        super().__init__(self.reason)

    @property
    def reason(self) -> str:
        return f"{self.code}: {self.text}"


def one_line(text: str) -> str:
    """Text of strangers made fit to show: one line of printable characters, at most TEXT_LENGTH of them."""
    text = " ".join(str(text)[: 4 * TEXT_LENGTH].split())
    text = "".join(character if character.isprintable() else "?" for character in text)
    return text if len(text) <= TEXT_LENGTH else text[: TEXT_LENGTH - 3] + "..."


def quoted(text: str) -> str:
    """A text of strangers within words of ours, so that it cannot be taken for them."""
    return f"\u201c{one_line(text)}\u201d"
