"""Print what CMakeLists.txt must know of the installed torch to build against it, as one JSON object."""

import contextlib
import json
import os
import sys
import sysconfig

# On import cpp_extension guesses a CUDA_HOME and logs about it; the build plan does not use that.
with contextlib.redirect_stdout(sys.stderr):
    import torch
    from torch.utils.cpp_extension import include_paths, library_paths

include_dirs = include_paths()
if not any(os.path.isdir(os.path.join(folder, "pybind11")) for folder in include_dirs):
    import pybind11  # a torch built without its own copy of the headers

    include_dirs.append(pybind11.get_include())

libraries = ["torch", "torch_cpu", "c10"]  # and torch_python, for the module alone
if torch.version.cuda:
    libraries += ["torch_cuda", "c10_cuda"]

facts = {
    "version": torch.__version__,
    "cuda": torch.version.cuda or "",
    "cxx11_abi": int(torch.compiled_with_cxx11_abi()),
    "include_dirs": ";".join(include_dirs),
    "library_dirs": ";".join(library_paths()),
    "libraries": ";".join(libraries),
    "python_include": sysconfig.get_path("include"),
    "module_suffix": sysconfig.get_config_var("EXT_SUFFIX"),
}
print(json.dumps(facts))
