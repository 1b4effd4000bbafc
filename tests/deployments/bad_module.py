"""Does not survive being imported."""

import sys

sys.exit("enough")
