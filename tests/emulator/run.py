"""Build the emulated kernels and run the ops' own tests, and tests/test_kernels.py, on them.

usage: python tests/emulator/run.py [--variant checked|sanitized] [--seed N] [--all] [pytest arguments]

Without a variant, both run, side by side: `checked` instruments every access of a kernel and names kernel, block and
thread; `sanitized` has the address and undefined-behaviour sanitizers. README.md beside this file says what each finds.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.emulator.library import build  # noqa: E402

# Tests of torch.compile, opcheck, export and threads run the same launchers, and take long here.
LEFT_OUT = "not opcheck and not compile and not threads and not export"
VARIANTS = ("checked", "sanitized")


def sanitizer_environment() -> dict[str, str]:
    """The sanitizers' libraries must be the first that the process loads. Leaks are not checked, since Python has its
    own, nor uses after return, since the sanitizer does not know the fibers' stacks."""
    libraries = [
        subprocess.run(
            ["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    return {
        "LD_PRELOAD": " ".join(libraries),
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1:detect_stack_use_after_return=0",
        "UBSAN_OPTIONS": "print_stacktrace=1:abort_on_error=1",
    }


def op_tests() -> list[str]:
    ops = sorted(path.stem for path in (ROOT / "retinanet_fast" / "ops").glob("[a-z]*.py"))
    files = [Path("tests") / f"test_{op}{part}.py" for op in ops for part in ("", "_calls")]
    return [str(file) for file in files if (ROOT / file).exists()]


def start(variant: str, folder: Path, arguments: list[str]) -> subprocess.Popen[str]:
    environment = os.environ | {
        "RETINANET_FAST_EMULATOR": str(folder / variant / "libemulated_kernels.so"),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    }
    if variant == "sanitized":
        environment |= sanitizer_environment()
    tests = [] if any(a.startswith("tests/") for a in arguments) else [*op_tests(), "tests/test_kernels.py"]
    plugins = ["-p", "tests.emulator.plugin", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *plugins, "-q", "-r", "fE", "-k", LEFT_OUT, *tests, *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variant", choices=VARIANTS)
    parser.add_argument("--seed", default="1", help="of the order of blocks and threads")
    parser.add_argument("--all", action="store_true", help="also the tests that take long here (plugin.py)")
    options, arguments = parser.parse_known_args()
    os.environ["RETINANET_FAST_EMULATOR_SEED"] = options.seed
    os.environ["RETINANET_FAST_EMULATOR_ALL"] = str(int(options.all))
    begin = time.monotonic()
    try:
        folder = build("emulator")
    except RuntimeError as error:
        sys.exit(str(error))
    print(f"kernels: built in {time.monotonic() - begin:.0f} s", flush=True)

    begin = time.monotonic()
    running = {
        variant: start(variant, folder, arguments)
        for variant in ([options.variant] if options.variant else VARIANTS)
    }
    failed = False
    for variant, process in running.items():
        output, _ = process.communicate()
        failed |= process.returncode != 0
        verdict = "ok" if process.returncode == 0 else "FAILED"
        print(output + f"kernels, {variant}: {verdict} after {time.monotonic() - begin:.0f} s", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
