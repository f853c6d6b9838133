"""Makes the typed functions of the module _C from the ops' schemas.

usage: generate_bindings.py cpp|stub FILE...

Reads each `// comment` with the `define_op<...>(m, "schema")` below it in csrc/tensor/*.cpp. `cpp` prints the pybind11
definitions that bindings.cpp includes; `stub` prints retinanet_fast/_C.pyi (`make format` writes it, a test compares).
Ops of autograd have no comment and get no function: only the dispatcher calls them.
"""

import re
import sys
from pathlib import Path

# Type in a schema: the dispatcher's C++ type, that of the Python function, how it becomes the former, Python's type.
TYPES = {
    "Tensor": ("const at::Tensor&", "const at::Tensor&", "{}", "Tensor"),
    "Tensor?": (
        "const std::optional<at::Tensor>&",
        "const std::optional<at::Tensor>&",
        "{}",
        "Tensor | None",
    ),
    "Tensor[]": ("at::TensorList", "const std::vector<at::Tensor>&", "{}", "Sequence[Tensor]"),
    "float[]": ("at::ArrayRef<double>", "const std::vector<double>&", "{}", "Sequence[float]"),
    "SymInt[]": (
        "c10::SymIntArrayRef",
        "const std::vector<int64_t>&",
        "c10::fromIntArrayRefSlow({})",
        "Sequence[int]",
    ),
    "float": ("double", "double", "{}", "float"),
    "int": ("int64_t", "int64_t", "{}", "int"),
    "bool": ("bool", "bool", "{}", "bool"),
    "str": ("c10::string_view", "const std::string&", "{}", "str"),
}
DEFAULTS = {"None": "py::none()", "False": "false", "True": "true"}

STUB = '''"""The compiled module: importing it registers the ops; each function is a typed binding of one.

Made by cmake/generate_bindings.py.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

def build_info() -> dict[str, Any]: ...
def release_kept_memory() -> None: ...
def synchronize_errors() -> None: ...
'''


class Op:
    def __init__(self, comment: str, schema: str) -> None:
        found = re.fullmatch(r"(\w+)\((.*)\) -> (.*)", schema)
        if not found:
            sys.exit(f"generate_bindings.py: not a schema: {schema}")
        self.name, arguments, self.returns = found.groups()
        self.doc = " ".join(re.findall(r"//\s*(.*)", comment))
        self.arguments = [self.argument(text) for text in arguments.split(", ")]

    def argument(self, text: str) -> tuple[str, str, str]:
        """Splits "type name=default" into (type, name, default), the default "" where there is none."""
        found = re.fullmatch(r"(\S+) (\w+)(?:=(.*))?", text)
        if not found or found[1] not in TYPES:
            sys.exit(
                f"generate_bindings.py: {self.name}: expected an argument of type {', '.join(TYPES)}, got {text}"
            )
        return found[1], found[2], found[3] or ""

    def cpp(self) -> str:
        def joined(parts: list[str]) -> str:
            return ", ".join(parts)

        count = self.returns.count("Tensor")
        result = "at::Tensor" if count == 1 else f"std::tuple<{joined(['at::Tensor'] * count)}>"
        signature = joined([TYPES[kind][0] for kind, _, _ in self.arguments])
        parameters = joined([f"{TYPES[kind][1]} {name}" for kind, name, _ in self.arguments])
        passed = joined([TYPES[kind][2].format(name) for kind, name, _ in self.arguments])
        named = "".join(
            f'py::arg("{name}")' + (f" = {DEFAULTS.get(default, default)}" if default else "") + ", "
            for _, name, default in self.arguments
        )
        return (
            f'm.def("{self.name}", []({parameters}) {{\n'
            f"  static const auto op = c10::Dispatcher::singleton()"
            f'.findSchemaOrThrow("retinanet_fast::{self.name}", "").typed<{result}({signature})>();\n'
            f"  return op.call({passed});\n"
            f'}}, {named}"{self.doc}");\n'
        )

    def stub(self) -> str:
        parameters = [
            f"{name}: {TYPES[kind][3]}" + (f" = {default}" if default else "")
            for kind, name, default in self.arguments
        ]
        count = self.returns.count("Tensor")
        result = "Tensor" if count == 1 else f"tuple[{', '.join(['Tensor'] * count)}]"
        line = f"def {self.name}({', '.join(parameters)}) -> {result}: ..."
        if len(line) <= 110:
            return line + "\n"
        return f"def {self.name}(\n" + "".join(f"    {p},\n" for p in parameters) + f") -> {result}: ...\n"


def ops_in(text: str) -> list[Op]:
    macros = {
        name: "".join(re.findall(r'"((?:[^"\\]|\\.)*)"', body))
        for name, body in re.findall(r"#define (\w+)\s*\\\n((?:.*\\\n)*.*\n)", text)
    }
    found = re.findall(r"((?:^ *//.*\n)+) *define_op<[^>]*>\(\s*m,\s*((?:[^;]|\n)*?)\);", text, re.MULTILINE)
    ops = []
    for comment, expression in found:
        pieces = re.findall(r'"((?:[^"\\]|\\.)*)"|(\w+)', expression)
        ops.append(Op(comment, "".join(macros[m] if m else p.replace('\\"', '"') for p, m in pieces)))
    return ops


def main() -> None:
    what, *files = sys.argv[1:]
    ops = [op for file in sorted(files) for op in ops_in(Path(file).read_text())]
    if what == "cpp":
        print("".join(op.cpp() for op in ops))
    else:
        print(STUB + "".join(op.stub() for op in ops), end="")


if __name__ == "__main__":
    main()
