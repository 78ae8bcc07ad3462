"""
Which file system a path is on: SQLite's locks and its write-ahead log do not hold on network file systems.
"""

from __future__ import annotations

import os
from pathlib import Path

NETWORK_TYPES = frozenset(
    {
        "9p", "acfs", "afs", "beegfs", "ceph", "cifs", "coda", "cvmfs", "davfs", "fuse.ceph", "fuse.cvmfs2",
        "fuse.gcsfuse", "fuse.glusterfs", "fuse.juicefs", "fuse.mount-s3", "fuse.rclone", "fuse.s3fs", "fuse.sshfs",
        "fuse.weka", "gfs2", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "panfs", "pvfs2", "smb3",
        "smbfs", "wekafs",
    }
)  # fmt: skip


def file_system(path: Path, mounts: str | None = None) -> str:
    """
    The type of the file system that holds the path (which need not exist yet), as the kernel names it; "" if unknown.

    `mounts` is the text of /proc/self/mountinfo. The last mount that covers the path is the one that counts.
    """
    if mounts is None:
        try:
            mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
        except OSError:  # not Linux
            return ""
    real = os.path.realpath(path)
    best, found = -1, ""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        if len(fields) < 5 or not after:
            continue
        point = fields[4].replace("\\040", " ").replace("\\134", "\\")
        covers = point == "/" or real == point or real.startswith(point + "/")
        if covers and len(point) >= best:
            best, found = len(point), after.split(" ")[0]
    return found
