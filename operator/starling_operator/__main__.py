"""`python -m starling_operator`."""

from starling_operator.main import main

raise SystemExit(main())
