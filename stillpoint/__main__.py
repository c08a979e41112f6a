"""``python -m stillpoint``: the command line, even when the script `stillpoint` is not on PATH."""

from stillpoint.pipelines.cli import main

raise SystemExit(main())
