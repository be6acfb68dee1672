"""Start the page to play with a model: `python -m src.page`; it opens in the browser."""

import subprocess
import sys

from src.common.cli import UserError, number, run_script
from src.page.starting import APP, app_flags, check_folders, make_parser, need_streamlit

LAST_PORT = 65535


def main() -> None:
    parser = make_parser(prog="python -m src.page", description=__doc__.partition(":")[0])
    parser.add_argument("--port", type=number(int, 1), help="of this machine; by default 8501, or the next one that is free")
    args = parser.parse_args()
    if args.port is not None and args.port > LAST_PORT:
        raise UserError(f"--port {args.port}: expected a number of at most {LAST_PORT}")
    check_folders(args)
    need_streamlit()
    port = [] if args.port is None else ["--server.port", str(args.port)]
    sys.exit(subprocess.call([sys.executable, "-m", "streamlit", "run", str(APP), *port, "--", *app_flags(args)]))


if __name__ == "__main__":
    run_script(main)
