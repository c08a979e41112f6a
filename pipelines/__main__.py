"""``python -m pipelines``: the command line, also where the script `stillpoint` is not on the path."""

from pipelines.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
