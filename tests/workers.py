"""Two processes on this machine that train together."""

import os
import socket
import subprocess
import sys


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def run_both(script, arguments, environments, timeout):
    """Run a script of this folder twice at once; both must end well.

    Args:
        script: its file name.
        arguments: two lists of what it is given, one for each process.
        environments: two dicts of environment variables.
        timeout: seconds to wait for each.
    """
    path = os.path.join(os.path.dirname(__file__), script)
    processes = [
        subprocess.Popen(
            [sys.executable, path, *map(str, given)], env=env, stderr=subprocess.PIPE, text=True
        )
        for given, env in zip(arguments, environments)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=timeout)
        assert process.returncode == 0, errors[-3000:]
