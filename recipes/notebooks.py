"""Execute the notebooks of docs/notebooks/ and write their outputs back into them.

    python -m recipes.notebooks                         all of them, half an hour on one core: pip install nbclient ipykernel
    python -m recipes.notebooks --notebooks ddim_2d     one of them

They run in their own folder, by this interpreter, and so do the commands `!python` in them.
"""

import os
import sys
from pathlib import Path
from typing import Any

from src.common.cli import Parser, UserError, run_script
from src.common.files import PROJECT_ROOT, write_whole

FOLDER = PROJECT_ROOT / "docs" / "notebooks"
SETTINGS = "settings"  # the tag of the cell that may be replaced
ENVIRONMENT = {
    "TQDM_MININTERVAL": "60",  # of a progress bar only the end is kept
    "PYTHONWARNINGS": "ignore",  # they name places on this machine
}


def execute(path: Path, settings: str | None = None) -> Any:
    """The notebook (nbformat's) with the outputs of a run from top to bottom. The file stays as it is.

    settings: the source of the cell that is tagged so, instead of its own.

    Raises UserError where nbclient or ipykernel is absent, or where a cell fails, with its error.
    """
    try:
        import ipykernel  # noqa: F401 - what runs the cells
        import nbformat
        from nbclient import NotebookClient
        from nbclient.exceptions import CellExecutionError
    except ImportError as error:
        raise UserError(f"notebooks need nbclient and ipykernel ({error}): pip install nbclient ipykernel") from error
    notebook = nbformat.read(path, as_version=4)
    if settings is not None:
        (cell,) = (cell for cell in notebook.cells if SETTINGS in cell.metadata.get("tags", []))
        cell.source = settings
    places = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    environment = {**os.environ, **ENVIRONMENT, "PATH": os.pathsep.join(places)}
    resources = {"metadata": {"path": str(path.parent)}}
    client = NotebookClient(notebook, resources=resources, record_timing=False, coalesce_streams=True)
    try:
        client.execute(env=environment)
    except CellExecutionError as error:
        raise UserError(f"{path}: {error.ename}: {error.evalue}") from error
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            tidy(output)
    return notebook


def tidy(output: Any) -> None:
    """Make the lines of a command end as all others do; leave out where the kit lies, and the JPEG copy of a picture."""
    if output.output_type == "stream":
        output.text = output.text.replace("\r\n", "\n").replace(f"{PROJECT_ROOT}{os.sep}", "")
    elif "image/png" in output.get("data", {}):
        output.data.pop("image/jpeg", None)


def save(notebook: Any, path: Path) -> None:
    """Write a notebook, whole or not at all."""
    import nbformat

    with write_whole(path) as partial:
        nbformat.write(notebook, partial)


def main() -> None:
    names = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--notebooks", nargs="+", choices=names, default=names, help="which of them")
    for name in parser.parse_args().notebooks:
        path = FOLDER / f"{name}.ipynb"
        save(execute(path), path)
        print(f"{path}: {path.stat().st_size / 1e3:.0f} kB", flush=True)


if __name__ == "__main__":
    run_script(main)
