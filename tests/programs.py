"""Where the programs are that tests run besides Python. `make test` installs them."""

import os
import shutil


def required(name: str) -> str:
    """The program's path; without it the test fails."""
    path = shutil.which(name, path=os.pathsep.join([os.environ["PATH"], "/usr/sbin"]))
    assert path, f"{name} is not installed; run `make test` once, which sees to it"
    return path
