"""What a process does that works for `in_processes`."""

import os
import pickle
import sys
import warnings


def work() -> None:
    """Read a function and then lists of items, and write what it makes of each, until whoever wants that has gone."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever else is written must not get between the answers
    warnings.simplefilter("ignore")  # as where the function is called in threads
    try:
        function = pickle.load(sys.stdin.buffer)
        while True:
            items = pickle.load(sys.stdin.buffer)
            pickle.dump([function(item) for item in items], answers, protocol=pickle.HIGHEST_PROTOCOL)
            answers.flush()
    except (EOFError, BrokenPipeError):
        os._exit(0)  # without another attempt to write what nobody reads
