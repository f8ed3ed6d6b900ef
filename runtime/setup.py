"""Compile csrc/engine into sparsetrain_runtime/_engine. Everything else is in pyproject.toml.

The library is called through C functions, so one wheel serves every Python 3.
SPARSETRAIN_SANITIZE=1 builds for AddressSanitizer and UBSan, =coverage for a fuzzer that looks
where calls pass.
"""

import os
import sys
from multiprocessing.pool import ThreadPool
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

flags = [
    "-std=c++17",
    "-O3",
    "-ffp-contract=off",  # without contraction a*b + c rounds twice, on every machine alike
    "-fno-math-errno",
    "-Wall",
    "-fvisibility=hidden",
    "-pthread",
]
link = ["-pthread"]
if os.environ.get("SPARSETRAIN_SANITIZE") == "1":
    checks = ["-fsanitize=address,undefined", "-fno-sanitize=vptr"]
    flags += [*checks, "-fno-sanitize-recover=all", "-O1", "-g1"]
    link += checks
traced = os.environ.get("SPARSETRAIN_SANITIZE") == "coverage"
if traced:
    flags.append("-fsanitize-coverage=trace-pc")


class Library(build_ext):
    """A library of C functions, no module; its files are compiled side by side."""

    def build_extension(self, ext):
        one_by_one = self.compiler.compile

        def compile(sources, **options):
            with ThreadPool() as pool:
                each = pool.map(lambda source: one_by_one([source], **options), sources)
            return [made for some in each for made in some]

        self.compiler.compile = compile
        super().build_extension(ext)

    def get_export_symbols(self, ext):
        return []


class AnyPython(bdist_wheel):
    def get_tag(self):
        return "py3", "none", super().get_tag()[2]


here = Path(__file__).resolve().parent
os.chdir(here)
sources = sorted(
    str(Path("..", "csrc", "engine", p.name)) for p in Path("../csrc/engine").glob("*.cpp")
)
if not sources:
    sys.exit("sparsetrain-runtime is built from a checkout: ../csrc/engine was not found")
if traced:
    sources.append(str(Path("..", "tests", "csrc", "places.cpp")))
setup(
    packages=["sparsetrain_runtime"],
    ext_modules=[
        Extension(
            "sparsetrain_runtime._engine",
            sources,
            depends=sorted(str(p) for p in Path("../csrc").glob("**/*.h")),
            extra_compile_args=flags,
            extra_link_args=link,
            language="c++",
            py_limited_api=True,
        )
    ],
    cmdclass={"build_ext": Library, "bdist_wheel": AnyPython},
)
