"""``python -m stillpoint``: the command line, also where the script `stillpoint` is not on the path."""

from stillpoint.pipelines.cli import main

raise SystemExit(main())
