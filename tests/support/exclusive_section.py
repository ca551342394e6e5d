"""Enter the exclusive section of a database: `python -m tests.support.exclusive_section URL`."""

import sys

from sweeper.store.database import open_writer

if __name__ == "__main__":
    store = open_writer(sys.argv[1])
    print("ready", flush=True)
    with store.exclusive_lock():
        print("inside", flush=True)
