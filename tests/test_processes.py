"""tests/processes.py: what goes wrong in a process is seen, and nothing of this one is found there."""

import pytest

from tests.processes import python, several_pythons


def test_a_process_of_its_own(tmp_path):
    (tmp_path / "module.py").write_text("import sys\nprint(__name__, sys.argv[1:])")
    (tmp_path / "script.py").write_text("import os, module\nprint(os.environ['WORD'], os.getcwd())")
    assert python(tmp_path, "script.py", WORD=7) == f"module []\n7 {tmp_path}\n"
    assert python(tmp_path, "-m", "module", "a", 1) == "__main__ ['a', '1']\n"
    assert python(tmp_path, "-c", "import sys; print('src' in sys.modules, 'torch' in sys.modules)") == "False True\n"
    with pytest.raises(AssertionError, match="No module named 'src'"):
        python(tmp_path, "-c", "import src")
    with pytest.raises(AssertionError, match="ValueError: of the second"):
        several_pythons(2, tmp_path, "-c", "import os\nif os.environ['RANK'] == '1': raise ValueError('of the second')")
