"""Run a Python file of the user's, named on the command line; nothing is looked for elsewhere."""

from __future__ import annotations

import hashlib
import runpy
from pathlib import Path
from typing import Any

from fieldmark.core.errors import InputError


def run_user_file(path: Path) -> tuple[dict[str, Any], str]:
    """Execute a Python file.

    Args:
        path: the file.

    Returns:
        What it defines, by name, and its SHA-256, 64 hexadecimal digits.

    Raises:
        InputError: it cannot be read, or fails.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "mine.py"
        ...     _ = path.write_text("answer = 6 * 7")
        ...     held, digest = run_user_file(path)
        >>> held["answer"], len(digest)
        (42, 64)
    """
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return runpy.run_path(str(path), run_name=f"fieldmark_plugin_{path.stem}"), digest
    except Exception as error:  # a user's file may fail in any way; one line says which and why
        problem = f"cannot be run ({type(error).__name__}: {error})"
        raise InputError(problem, where=path, mend="run it with python alone") from error
