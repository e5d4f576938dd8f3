"""`python -m starling.node`: one worker, told what to do by its environment."""

from starling.node.worker import main

raise SystemExit(main())
