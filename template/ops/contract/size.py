"""Measure the file system it runs in, which is the image's: make size. Kept by the template."""

import os
import sys
from collections import Counter

DEPTH = 6  # of the folders that are listed, as /app/.venv/lib/python3.14/site-packages/NAME

parts: Counter[str] = Counter()
for folder, folders, files in os.walk("/"):
    folders[:] = [name for name in folders if not os.path.ismount(os.path.join(folder, name))]
    for name in files:
        path = os.path.join(folder, name)
        parts["/".join(path.split("/")[: DEPTH + 1])] += os.lstat(path).st_size

allowed = int(sys.argv[1])
megabytes = parts.total() / 1e6
print(f"The image has {megabytes:.0f} MB; {allowed} are allowed.")
if megabytes > allowed:
    print("Its largest parts:")
    for part, size in parts.most_common(10):
        print(f"{size / 1e6:6.1f} MB  {part}")
    sys.exit(1)
