"""`python -m harness.doctor`, which needs only the standard library."""

import sys

from harness.doctor.examine import main

sys.exit(main())
