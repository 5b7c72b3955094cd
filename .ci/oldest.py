"""Print the oldest versions that a pyproject.toml allows, as requirements of pip."""

import re
import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path(sys.argv[1]).read_text())["project"]
print("\n".join(re.sub(r"\s*>=\s*", "==", each) for each in project["dependencies"]))
