"""Packages of npm and of Debian, fetched and unpacked once: where the raw material of training comes from."""

import re
import subprocess
import tarfile
from pathlib import Path

from mis_lib.errors import ModelError


def npm_package(name: str, downloads: Path) -> Path:
    """Fetch and unpack an npm package; returns its ``package`` folder.

    Raises:
        ModelError: npm is missing or fails.
    """
    target = downloads / re.sub(r"\W+", "-", name).strip("-")
    if not target.exists():
        try:
            done = subprocess.run(
                ["npm", "pack", "--silent", name], cwd=downloads, capture_output=True, text=True, check=True
            )
        except (OSError, subprocess.CalledProcessError) as error:
            raise ModelError(f"npm could not fetch {name}: {error}; install Node.js and npm, and retry") from error
        with tarfile.open(downloads / done.stdout.strip().splitlines()[-1]) as archive:
            archive.extractall(target, filter="data")
    return target / "package"


def debian_package(name: str, downloads: Path) -> Path:
    """Fetch and unpack a Debian package; returns the folder that stands for ``/``.

    Raises:
        ModelError: apt-get or dpkg-deb is missing or fails.
    """
    target = downloads / name
    if not target.exists():
        try:
            subprocess.run(["apt-get", "download", name], cwd=downloads, check=True, capture_output=True)
            package = next(downloads.glob(f"{name}_*.deb"))
            subprocess.run(["dpkg-deb", "-x", str(package), str(target)], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise ModelError(
                f"apt-get could not fetch {name}: {error}; this stage needs Debian or a relative"
            ) from error
    return target
