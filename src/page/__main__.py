"""Start the page to play with a model: `python -m src.page`; it opens in the browser."""

import subprocess
import sys
from pathlib import Path

from src.common.cli import UserError, number, run_script
from src.page import app

LAST_PORT = 65535


def main() -> None:
    parser = app.make_parser(prog="python -m src.page", description=__doc__.partition(":")[0])
    parser.add_argument("--port", type=number(int, 1), help="of this machine; by default 8501, or the next one that is free")
    args = parser.parse_args()
    if args.port is not None and args.port > LAST_PORT:
        raise UserError(f"--port {args.port}: expected a number of at most {LAST_PORT}")
    for name in ("checkpoints", "results"):  # absent ones are an error only where they were named
        folder = getattr(args, name)
        if folder != Path(name) and not folder.is_dir():
            there = "that is a file" if folder.exists() else "there is no such folder"
            raise UserError(f"--{name} {folder}: expected a folder, and {there}")
    app.need_streamlit()
    port = [] if args.port is None else ["--server.port", str(args.port)]
    flags = [word for name in ("checkpoints", "results", "device") for word in (f"--{name}", str(getattr(args, name)))]
    sys.exit(subprocess.call([sys.executable, "-m", "streamlit", "run", app.__file__, *port, "--", *flags]))


if __name__ == "__main__":
    run_script(main)
