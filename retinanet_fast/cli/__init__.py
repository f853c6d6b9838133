"""``retinanet-fast``: reads the command line and calls the engine.

Exit codes: 0 done; 1 training, the build, the check of an exported file or another process of the run failed; 2 bad
input, told in one line; 130 stopped by Ctrl-C, 128 + N by signal N.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence

from retinanet_fast.cli import commands
from retinanet_fast.cli.arguments import PROGRAM, make_parser
from retinanet_fast.cli.browsing import browse_command
from retinanet_fast.cli.data_sets import check_data_command, convert_command
from retinanet_fast.cli.evaluating import eval_command
from retinanet_fast.cli.exporting import export_command
from retinanet_fast.cli.predicting import predict_command
from retinanet_fast.cli.training import train_command
from retinanet_fast.cli.waiting import choose_waiting
from retinanet_fast.engine.errors import (
    CheckError,
    InputError,
    ProcessLost,
    Stopped,
    TrainingError,
    describe_import_error,
)

COMMANDS = {
    "demo": commands.demo_command,
    "train": train_command,
    "eval": eval_command,
    "predict": predict_command,
    "browse": browse_command,
    "export": export_command,
    "check-data": check_data_command,
    "convert": convert_command,
    "info": commands.info_command,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    choose_waiting()
    try:
        if words[:1] == ["bench"]:
            return commands.bench_command(words[1:])
        options = make_parser().parse_args(words)
        COMMANDS[options.command](options)
    except InputError as error:
        return _fail(str(error), 2)
    except (TrainingError, CheckError, ProcessLost) as error:
        return _fail(str(error), 1)
    except Stopped as error:
        number = error.signal_number
        name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        return _fail(f"stopped by {name}: {error}", 128 + number)
    except ImportError as error:
        return _fail(describe_import_error(error), 1)
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error), 2)
    except RuntimeError as error:
        # The kernels name an environment variable whose value they do not know, such as RETINANET_FAST_CPU_LEVEL.
        if not str(error).startswith("RETINANET_FAST_"):
            raise
        return _fail(str(error).splitlines()[0], 2)
    except KeyboardInterrupt:
        return _fail("stopped by Ctrl-C; what was written before is whole", 130)
    return 0


def _fail(message: str, code: int) -> int:
    print(f"{PROGRAM}: {message}", file=sys.stderr)
    return code
