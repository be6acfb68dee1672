"""Options that check themselves, and the flags made of them."""

from dataclasses import dataclass, field, fields

import pytest

from src.common.cli import Parser
from src.common.options import Options, add_option_flags


@dataclass
class Some(Options):
    least: int = field(default=2, metadata={"minimum": 1, "help": "a count"})
    share: float = field(default=0.5, metadata={"minimum": 0, "maximum": 1})
    decay: float = field(default=0.9, metadata={"minimum": 0, "below": 1})
    scale: float = field(default=1.0, metadata={"above": 0})
    sign: float = field(default=0.0, metadata={"above": -1, "below": 1})
    kind: str = field(default="a", metadata={"choices": ("a", "b")})
    many: list[int] = field(default_factory=lambda: [2, 4], metadata={"minimum": 2})
    none: list[int] = field(default_factory=lambda: [1], metadata={"empty": True})
    on: bool = False


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"least": 0}, "expected least of at least 1, got 0"),
        ({"share": 1.5}, "expected share from 0 to 1, got 1.5"),
        ({"decay": 1.0}, "expected decay from 0 to below 1, got 1"),
        ({"scale": 0.0}, "expected scale above 0, got 0"),
        ({"scale": float("nan")}, "expected scale above 0, got nan"),
        ({"sign": -1.0}, "expected sign above -1 and below 1, got -1"),
        ({"kind": "c"}, "unknown kind 'c'; expected one of a, b"),
        ({"many": [4, 1]}, "expected many of at least 2, got 1"),
    ],
)
def test_a_value_out_of_its_bounds_is_refused(values, message):
    Some()
    with pytest.raises(ValueError) as caught:
        Some(**values)
    assert str(caught.value) == message


def test_flags():
    parser = Parser()
    add_option_flags(parser.add_argument_group("some"), fields(Some))
    assert Some(**vars(parser.parse_args([]))) == Some()
    args = parser.parse_args(["--least", "3", "--share", "0.25", "--kind", "b", "--many", "8", "16", "--none", "--on"])
    assert (args.least, args.share, args.kind, args.many, args.none, args.on) == (3, 0.25, "b", [8, 16], [], True)
    for words in ("--least 0", "--least two", "--kind c", "--many", "--many 1", "--share inf"):
        with pytest.raises(SystemExit):
            parser.parse_args(words.split())
    assert "a count (default: 2)" in " ".join(parser.format_help().split())


def test_a_subclass_checks_relations_too():
    @dataclass
    class More(Some):
        def __post_init__(self):
            super().__post_init__()
            if self.least > 5:
                raise ValueError("too many")

    with pytest.raises(ValueError, match="too many"):
        More(least=6)
    with pytest.raises(ValueError, match="least of at least 1"):
        More(least=0)
