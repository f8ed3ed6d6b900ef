"""Compile csrc/torch and kernels/*.cu into sparsetrain._C. Everything else is in pyproject.toml.

SPARSETRAIN_CUDA=0 leaves the CUDA half out and =1 insists on it; by default it is built where
nvcc is. SPARSETRAIN_SANITIZE=1 builds for AddressSanitizer and UBSan: `make fuzz`.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import find_packages, setup

try:
    from torch.utils import cpp_extension
except ImportError:
    sys.exit(
        'sparsetrain needs torch to build: pip install "torch>=2.11" first, '
        "then pip install --no-build-isolation ."
    )

compiler = shlex.split(os.environ.get("CXX", "cl" if sys.platform == "win32" else "c++"))[0]
if not shutil.which(compiler):
    sys.exit(f"sparsetrain needs a C++17 compiler to build: {compiler} was not found (see CXX)")

TORCH_2_11 = "-DTORCH_TARGET_VERSION=0x020b000000000000"  # the oldest torch this binary may meet

sources = sorted(Path("csrc/torch").glob("*.cpp"))
# Without contraction a*b + c rounds twice, on every machine alike. Without errno std::sqrt is one
# instruction, and loops of it vectorise.
flags = {
    "cxx": [
        "-std=c++17",
        "-O3",
        "-ffp-contract=off",
        "-fno-math-errno",
        "-Wall",
        "-fvisibility=hidden",
        TORCH_2_11,
        "-DPy_LIMITED_API=0x030A0000",
    ]
}
libraries, library_dirs, link = [], [], []
if os.environ.get("SPARSETRAIN_SANITIZE") == "1":
    link = ["-fsanitize=address,undefined"]
    flags["cxx"] += [*link, "-fno-sanitize=vptr", "-fno-sanitize-recover=all", "-O1", "-g1"]
if sys.platform == "linux":
    flags["cxx"].append("-fopenmp")

wanted = os.environ.get("SPARSETRAIN_CUDA")
cuda = os.environ.get("CUDA_HOME")
nvcc = shutil.which("nvcc", path=str(Path(cuda, "bin"))) if cuda else shutil.which("nvcc")
if wanted == "1" and not nvcc:
    sys.exit("sparsetrain: SPARSETRAIN_CUDA=1 needs nvcc, found neither in CUDA_HOME nor on PATH")
if wanted != "0" and nvcc:  # a CPU-only torch builds the CUDA half too; it is used where a GPU is
    # nvcc says where its toolkit is; its own path may be that of a wrapper.
    plan = subprocess.run(
        [nvcc, "--dryrun", "-x", "cu", os.devnull], capture_output=True, text=True
    )
    top = re.search(r"^#\$ TOP=(.+)$", plan.stderr, re.MULTILINE)
    if not top:
        sys.exit(f"sparsetrain: {nvcc} does not run; SPARSETRAIN_CUDA=0 builds without CUDA")
    home = Path(top[1].strip()).resolve()
    cpp_extension.CUDA_HOME = str(home)
    sources += sorted(Path("kernels").glob("*.cu"))
    flags["nvcc"] = ["-std=c++17", "-O3", "-lineinfo", "-DUSE_CUDA", TORCH_2_11]
    libraries = ["cudart_static", "dl", "rt", "pthread"]
    library_dirs = [str(home / "lib64")]

setup(
    packages=[*find_packages(include=["sparsetrain*"]), "sparsetrain.kernels"],
    package_dir={"sparsetrain.kernels": "kernels"},
    ext_modules=[
        cpp_extension.CppExtension(
            "sparsetrain._C",
            [str(s) for s in sources],
            extra_compile_args=flags,
            extra_link_args=link,
            libraries=libraries,
            library_dirs=library_dirs,
            py_limited_api=True,
        )
    ],
    cmdclass={"build_ext": cpp_extension.BuildExtension},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
