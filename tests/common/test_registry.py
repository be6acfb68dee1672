"""A registry of plug-ins."""

import pytest

from src.common.registry import Registry


def test_names_and_what_is_not_known():
    things = Registry("thing")
    things.add("b", 1)
    things.add("a", 2)
    assert things.names() == ["a", "b"] and things.items() == [("a", 2), ("b", 1)] and things.get("b") == 1
    with pytest.raises(ValueError, match="unknown thing 'c'; expected one of a, b"):
        things.get("c")
    things.remove("a")
    things.remove("never there")
    assert things.names() == ["b"]
    with pytest.raises(ValueError, match="thing 'b' is registered twice"):
        things.add("b", 3)


def test_a_class_that_is_imported_anew_takes_its_place():
    def make():
        class Same:
            pass

        return Same

    things, first, second = Registry("class"), make(), make()
    things.add("same", first)
    things.add("same", second)
    assert things.get("same") is second
    with pytest.raises(ValueError, match=r"registered twice: .*Same and dict"):
        things.add("same", dict)
