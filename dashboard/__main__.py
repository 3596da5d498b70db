"""python -m dashboard: start the server, on this machine alone unless told otherwise."""

import argparse
import importlib
import sys
from pathlib import Path

from dashboard import guard

# What the first page needs: read while nobody waits, and not when the first reader does.
FIRST = (
    *("pandas", "pyarrow.parquet", "pyarrow.json", "altair", "streamlit.emojis"),
    *("dashboard.store", "dashboard.charts"),
)


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m dashboard", description=__doc__)
    parser.add_argument(
        "--address", default="127.0.0.1", help="where to listen; all but this machine's asks for a token"
    )
    parser.add_argument("--port", type=int, default=8501)
    asked, more = parser.parse_known_args(words)
    if why := guard.problem(asked.address):
        sys.exit(f"dashboard: {why}")
    for name in FIRST:
        importlib.import_module(name)
    from streamlit.web import cli

    flags = {"server.address": asked.address, "server.port": asked.port, "server.headless": "true"}
    flags |= {"server.fileWatcherType": "none", "browser.gatherUsageStats": "false"}
    flags |= {"runner.magicEnabled": "false"}  # a sentence under a constant is no part of the page
    print(f"dashboard: http://{asked.address}:{asked.port}  (Ctrl-C ends it)", flush=True)
    app = Path(__file__).with_name("app.py")
    sys.argv = ["streamlit", "run", str(app), *(f"--{name}={value}" for name, value in flags.items()), *more]
    cli.main()


if __name__ == "__main__":
    main(sys.argv[1:])
