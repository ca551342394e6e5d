"""Upper limits for values in study files, requests, URLs and options.

They are well above practical needs, and low enough to bound memory and time.
docs/reference/limits.md lists every field with its limit and the reason.
"""

from typing import Final

# ---- any value -------------------------------------------------------------------------------

STUDY_FILE_LENGTH: Final = 500_000  # characters in a study file
REQUEST_BODY_BYTES: Final = 1_000_000  # bytes in a request body
NESTING_DEPTH: Final = 20  # nesting of tables and lists, and parts of a dotted key
VALUES_PER_FILE: Final = 20_000  # values in a study file
KEYS_PER_TABLE: Final = 200  # keys in a table
ITEMS_PER_LIST: Final = 10_000  # items in a list
KEY_LENGTH: Final = 100  # characters in a key
TEXT_LENGTH: Final = 10_000  # characters in a string
INTEGER_DIGITS: Final = 100  # digits of an integer without a tighter limit
LARGEST_INTEGER: Final = 2**63 - 1  # largest 64-bit integer
LARGEST_EXACT_INTEGER: Final = 2**53  # up to here, a double represents every integer exactly
LARGEST_NUMBER: Final = 1e300  # differences and products of two bounds stay finite
ERROR_LINES: Final = 50  # lines in one error message

# ---- study files -----------------------------------------------------------------------------

NAME_LENGTH: Final = 100  # characters
SEED_COUNT: Final = 2**32  # seeds that both NumPy and torch accept
REFERENCE_LENGTH: Final = 1_000  # characters of "file.py:name" or of a path
DEVICE_LENGTH: Final = 100  # characters
ARGUMENTS: Final = 1_000  # items of task.command
ARGUMENT_LENGTH: Final = 10_000  # characters
PATTERN_LENGTH: Final = 1_000  # characters of task.pattern
CLASSES: Final = 10_000_000
CORES: Final = 4_096
GPUS: Final = 64
HOURS: Final = 1_000_000_000
MEMORY_GIB: Final = 1_000_000
CHOICES: Final = 100
CHOICE_LENGTH: Final = 200  # characters
CONSTRAINT_LENGTH: Final = 200  # characters
TRIALS: Final = 1_000_000
PLANNED_POINTS: Final = 100_000  # points that are stored in tickets at launch
PLANNED_VALUES: Final = 1_000_000  # values in these points
SECONDS: Final = 100_000_000  # three years; fits into system timers
GRID_POINTS: Final = 10_000  # points per range of a grid
REDUCTION_FACTOR: Final = 1_000
SHORTLIST_SIZE: Final = 20
REPLICATES: Final = 1_000
LARGEST_EFFECT: Final = 1_000_000
FIRST_POINTS: Final = 1_000

# ---- requests and URLs -----------------------------------------------------------------------

LARGEST_SQL_INTEGER: Final = 2**31 - 1  # largest SQL INTEGER
PAGE_SIZE: Final = 500  # studies or trials per response
PAGE_NUMBER: Final = 10_000_000
REDIRECT_PATH_LENGTH: Final = 2_000  # characters in a redirect path
SECRET_LENGTH: Final = 500  # characters in an access token or a form token
QUERY_TEXT_LENGTH: Final = 255  # characters in a name, search text, column or state

# ---- options of the commands -----------------------------------------------------------------

WORKERS: Final = 100_000  # workers of one study
SLOTS: Final = 4_096
