"""A process that waits to be asked, so that several can be measured in turn: a line of JSON each way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any


class Worker:
    """The asking side. The process says once that it is ready (:meth:`reply`), then answers each question."""

    def __init__(self, argv: list[str], **options: Any) -> None:
        """Start ``argv`` with ``options`` of :class:`subprocess.Popen`."""
        pipe, self.name = subprocess.PIPE, " ".join(argv[1:3])[:80]
        self.process = subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True, **options)

    def ask(self, question: Any) -> Any:
        self.send(question)
        return self.reply()

    def send(self, question: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()

    def reply(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} stopped; what it said is in its standard error")
        return json.loads(line)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


class Answers:
    """The answering side: takes standard output for replies alone, whatever libraries print."""

    def __init__(self) -> None:
        self.replies = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def serve(self, answer: Callable[[Any], Any], ready: Any = True) -> None:
        """Say ``ready``, then answer each line of standard input until there are no more."""
        print(json.dumps(ready), file=self.replies, flush=True)
        for line in sys.stdin:
            print(json.dumps(answer(json.loads(line))), file=self.replies, flush=True)
