"""`python -m starling.node`: one worker, told what to do by its environment; with `spare`, by a line of input."""

import sys

if sys.argv[1:] == ["spare"]:
    from starling.node.spare import main
else:
    from starling.node.worker import main

raise SystemExit(main())
