"""What stands for the interpreter beside the socket of `apo.tools.server`: the server forks and this process ends as
the fork does.
"""

import json
import os
import signal
import socket
import sys

if sys.argv[1] != "-m" and sys.argv[1].startswith("-"):  # other options of an interpreter
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
with socket.socket(socket.AF_UNIX) as server:
    server.connect(os.path.join(os.path.dirname(os.path.abspath(__file__)), "socket"))
    request = {"command": sys.argv[1:], "cwd": os.getcwd(), "env": dict(os.environ), "group": os.getpgrp()}
    message = json.dumps(request).encode() + b"\n"
    socket.send_fds(server, [message[:1]], [0, 1, 2])
    server.sendall(message[1:])
    code = int(server.makefile().readline() or -signal.SIGKILL)
if code < 0:
    signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
sys.exit(code)
