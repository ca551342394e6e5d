"""Open a database and add a study: `python -m tests.support.add_study URL NAME`."""

import sys

from sweeper.store.database import open_writer
from sweeper.store.studies import add_study, all_studies


def main() -> None:
    url, name = sys.argv[1:]
    store = open_writer(url)
    add_study(store, name, spec="{}", spec_hash="", folder="", version="0")
    assert name in [study.name for study in all_studies(store)]


if __name__ == "__main__":
    main()
