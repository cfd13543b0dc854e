"""`python -m harness.doctor`, which needs nothing but Python."""

import sys

from harness.doctor.examine import main

sys.exit(main())
